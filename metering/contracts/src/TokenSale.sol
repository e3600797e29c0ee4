// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IPSX} from "./IPSX.sol";

/// What is fixed when the sale is deployed.
struct SaleTerms {
    uint40 opensAt;
    uint40 closesAt;
    address organiser;
    address beneficiary;
    address[3] recipients;
}

/// @title The sale that creates the IPSX token: half of it for contributors in proportion, half for three recipients.
/// @notice Until the period opens, the organiser sets a goal and a cap in wei; from then on nobody decides anything.
/// The first contribution creates the whole supply, in this contract's hands. The sale succeeds when the cap is
/// reached, or when the period ends at or above the goal: then everyone takes their tokens, and no unit moves before.
/// Otherwise everyone takes back all that they sent.
contract TokenSale is ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// Longest funding period: how long a contribution can wait for the outcome.
    uint256 public constant MAX_PERIOD = 90 days;
    /// 50 % of the supply, shared by the contributors in proportion to what they gave.
    uint256 public constant FOR_CONTRIBUTORS = 900_000_000e18;
    /// 27.5 %, for the first recipient.
    uint256 public constant FOR_FIRST = 495_000_000e18;
    /// 2.5 %, for the second recipient.
    uint256 public constant FOR_SECOND = 45_000_000e18;
    /// 20 %, for the third recipient.
    uint256 public constant FOR_THIRD = 360_000_000e18;

    /// Where the sale is; a function of the time and of what was raised, so that nobody has to move it on.
    enum Phase {
        Announced, // the period has not begun
        Open, // contributions are taken
        Succeeded, // tokens are paid out, and the ETH to the beneficiary
        Failed // contributions are paid back
    }

    struct Contribution {
        uint256 amount; // accepted, in wei; 0 once it was turned into tokens or paid back
        uint256 excess; // sent above the cap, to be taken back at any time
    }

    /// Sets goal and cap until the period opens; can do nothing afterwards.
    address public immutable organiser;
    /// Takes the ETH when the sale succeeded.
    address public immutable beneficiary;
    /// First second of the funding period.
    uint256 public immutable opensAt;
    /// First second after the funding period.
    uint256 public immutable closesAt;

    /// The token; zero until the first contribution.
    IPSX public token;
    /// Least wei for a success.
    uint128 public goal;
    /// Most wei that is accepted; 0 until the organiser has set it.
    uint128 public cap;
    /// Wei accepted in all, also after it was paid out. Ether that was forced on this contract is no part of it.
    uint256 public raised;
    /// The part of `raised` that was turned into tokens.
    uint256 public converted;
    /// Whether the beneficiary has taken what was raised.
    bool public collected;

    mapping(address contributor => Contribution) public contributions;
    /// What each recipient has not taken yet.
    mapping(address recipient => uint256) public allotments;

    event LimitsSet(uint256 goal, uint256 cap);
    event TokenCreated(address indexed token);
    event Contributed(address indexed contributor, uint256 amount, uint256 excess);
    event Claimed(address indexed owner, address to, uint256 tokens);
    event Refunded(address indexed contributor, address to, uint256 amount);
    event Collected(address indexed to, uint256 amount);

    error ZeroAddress();
    error BadPeriod();
    error BadLimits();
    error NotOrganiser();
    error NotBeneficiary();
    error NotNow(Phase phase);
    error NothingSent();
    error NothingDue();
    error PayoutToSelf();

    constructor(SaleTerms memory terms) {
        require(terms.organiser != address(0) && terms.beneficiary != address(0), ZeroAddress());
        require(block.timestamp < terms.opensAt && terms.opensAt < terms.closesAt, BadPeriod());
        require(terms.closesAt - terms.opensAt <= MAX_PERIOD, BadPeriod());
        organiser = terms.organiser;
        beneficiary = terms.beneficiary;
        opensAt = terms.opensAt;
        closesAt = terms.closesAt;
        _allot(terms.recipients[0], FOR_FIRST);
        _allot(terms.recipients[1], FOR_SECOND);
        _allot(terms.recipients[2], FOR_THIRD);
    }

    /// Sets the least and the most wei of this sale, by the organiser, as often as it likes until the period opens.
    function setLimits(uint128 goal_, uint128 cap_) external {
        require(msg.sender == organiser, NotOrganiser());
        require(block.timestamp < opensAt, NotNow(phase()));
        require(goal_ != 0 && goal_ <= cap_, BadLimits());
        goal = goal_;
        cap = cap_;
        emit LimitsSet(goal_, cap_);
    }

    /// Contributes the ETH sent along. What goes above the cap is not lost: `refund` pays it back at any time.
    function contribute() external payable nonReentrant {
        _require(Phase.Open);
        require(msg.value != 0, NothingSent());
        uint256 amount = cap - raised;
        if (msg.value < amount) amount = msg.value;
        uint256 excess = msg.value - amount;
        raised += amount;
        Contribution storage c = contributions[msg.sender];
        c.amount += amount;
        if (excess != 0) c.excess += excess;
        emit Contributed(msg.sender, amount, excess);
        if (address(token) == address(0)) {
            token = new IPSX(address(this));
            emit TokenCreated(address(token));
        }
    }

    /// Pays the caller all the tokens it is due, as contributor and as recipient, once the sale succeeded.
    /// A share is floor(half · sum after) − floor(half · sum before), each divided by what was raised, where the sums
    /// are of the contributions claimed: within one unit of the exact share, and nothing is left when all have claimed.
    function claim(address to) external nonReentrant returns (uint256 tokens) {
        _require(Phase.Succeeded);
        uint256 amount = contributions[msg.sender].amount;
        tokens = allotments[msg.sender];
        require(amount != 0 || tokens != 0, NothingDue());
        require(to != address(this), PayoutToSelf());
        allotments[msg.sender] = 0;
        if (amount != 0) {
            contributions[msg.sender].amount = 0;
            uint256 before = converted;
            converted = before + amount;
            tokens += FOR_CONTRIBUTORS * (before + amount) / raised - FOR_CONTRIBUTORS * before / raised;
        }
        emit Claimed(msg.sender, to, tokens);
        IERC20(token).safeTransfer(to, tokens);
    }

    /// Pays the caller back what went above the cap and, when the sale failed, all that it contributed.
    function refund(address payable to) external nonReentrant returns (uint256 amount) {
        require(to != address(0), ZeroAddress());
        Contribution storage c = contributions[msg.sender];
        amount = c.excess;
        c.excess = 0;
        if (phase() == Phase.Failed) {
            amount += c.amount;
            c.amount = 0;
        }
        require(amount != 0, NothingDue());
        emit Refunded(msg.sender, to, amount);
        Address.sendValue(to, amount);
    }

    /// Pays what was raised to any address, by the beneficiary, once the sale succeeded.
    function collect(address payable to) external nonReentrant returns (uint256 amount) {
        require(msg.sender == beneficiary, NotBeneficiary());
        require(to != address(0), ZeroAddress());
        _require(Phase.Succeeded);
        require(!collected, NothingDue());
        collected = true;
        amount = raised;
        emit Collected(to, amount);
        Address.sendValue(to, amount);
    }

    /// Where the sale is now. Without a cap at its opening it has failed.
    function phase() public view returns (Phase) {
        if (block.timestamp < opensAt) return Phase.Announced;
        if (cap == 0) return Phase.Failed;
        if (raised == cap) return Phase.Succeeded;
        if (block.timestamp < closesAt) return Phase.Open;
        return raised < goal ? Phase.Failed : Phase.Succeeded;
    }

    function _require(Phase wanted) private view {
        Phase now_ = phase();
        require(now_ == wanted, NotNow(now_));
    }

    function _allot(address recipient, uint256 amount) private {
        require(recipient != address(0), ZeroAddress());
        allotments[recipient] += amount;
    }
}
