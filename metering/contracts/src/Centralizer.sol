// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Authorization, Channel, CompactSignature, CreditsTransfer, Messages, Row, Withdrawal} from "./Messages.sol";

/// @title Deposits, session keys and claims of every network that trades in one token.
/// @notice Vouchers move value off chain; this contract holds the deposits and pays the claims. It has no owner,
/// no pause and no upgrade. It holds tokens = balances + held + credits + bonds, which never exceed 2^96 - 1.
contract Centralizer is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Messages for Authorization;
    using Messages for Channel;
    using Messages for CreditsTransfer;
    using Messages for Withdrawal;

    /// How long a claim stays good after its reservation, and how long a revoked or rotated key keeps serving.
    uint256 public constant GRACE = 24 hours;
    /// A withdrawal without the operator waits longer than this; operator keys rotate no faster.
    uint256 public constant EXIT_DELAY = 48 hours;
    /// A bond leaves only longer than this after notice.
    uint256 public constant BOND_NOTICE = 7 days;
    /// 10 %, the highest fee of a network.
    uint256 public constant MAX_FEE_BPS = 1_000;
    uint256 private constant BPS = 10_000;

    /// Why a row was skipped.
    enum Skip {
        Expired, // more than GRACE after validUntil
        SignerExpired, // the reservation outlives the session key, or the key was never authorised
        NotOperator, // the reservation is not signed by a key that serves it
        NotPayerSigner, // the voucher is not signed by the channel's session key
        NothingDue, // all of it was claimed before
        Unfunded // neither hold, balance nor bond has anything left for it
    }

    struct Network {
        address operator;
        uint40 rotatedAt;
        uint16 feeBps;
        address previousOperator;
        address admin;
        uint40 bondRequestedAt;
        address treasury;
        uint96 bond;
        uint96 bondPending;
    }

    struct Account {
        uint96 balance;
        uint96 pending;
        uint40 requestedAt;
        uint128 debt;
        uint64 withdrawalNonce;
        uint64 authorizationNonce;
    }

    struct ChannelState {
        uint112 claimed;
        uint96 held;
        uint40 heldUntil;
    }

    struct Credit {
        uint128 amount;
        uint64 nonce;
    }

    /// What one row moves; computed before anything is written.
    struct Split {
        uint256 fromHeld;
        uint256 fromBalance;
        uint256 fromBond;
        uint256 unpaid;
    }

    /// The one token of this contract.
    IERC20 public immutable token;

    mapping(bytes32 id => Network) public networks;
    mapping(bytes32 network => mapping(address owner => Account)) public accounts;
    /// Last second at which a session key counts; 0 for one that was never authorised.
    mapping(bytes32 network => mapping(address payer => mapping(address signer => uint256))) public signers;
    mapping(bytes32 channelId => ChannelState) public channels;
    mapping(address owner => Credit) public credits;

    event NetworkCreated(
        bytes32 indexed network, address indexed admin, address operator, address treasury, uint256 feeBps
    );
    event OperatorRotated(bytes32 indexed network, address operator, address previous);
    event BondAdded(bytes32 indexed network, uint256 amount);
    event BondRequested(bytes32 indexed network, uint256 amount);
    event BondWithdrawn(bytes32 indexed network, address to, uint256 amount);
    event Deposited(bytes32 indexed network, address indexed owner, uint256 amount, uint256 debtRepaid);
    event WithdrawRequested(bytes32 indexed network, address indexed owner, uint256 amount);
    event Withdrawn(bytes32 indexed network, address indexed owner, address to, uint256 amount);
    event SignerChanged(bytes32 indexed network, address indexed payer, address indexed signer, uint256 validTo);
    event Settled(
        bytes32 indexed channelId,
        address indexed provider,
        uint256 paid,
        uint256 fee,
        uint256 claimed,
        uint256 unpaid,
        uint256 fromBond
    );
    event Skipped(bytes32 indexed channelId, Skip reason);
    event Held(bytes32 indexed channelId, uint256 amount, uint256 until);
    event Released(bytes32 indexed channelId, uint256 amount);
    event CreditsWithdrawn(address indexed owner, address to, uint256 amount);

    error ZeroAddress();
    error FeeTooHigh();
    error NetworkExists();
    error NoSuchNetwork();
    error NotAdmin();
    error NotOwner();
    error NotProvider();
    error TooEarly(uint256 notBefore);
    error NothingPending();
    error WrongNonce(uint256 expected);
    error Expired();
    error InvalidSignature();
    error InsufficientFunds(uint256 available);
    error NothingArrived();
    error TooManyTokens();
    error PayoutToSelf();
    error HoldRejected(Skip reason);
    error HoldTooLong();
    error HoldDuringExit();

    constructor(IERC20 token_) EIP712("ipsx", "1") {
        require(address(token_) != address(0), ZeroAddress());
        token = token_;
    }

    // ---- networks ----

    /// Opens a network. The id binds everything that can't change, and the caller, so that nobody can squat on it.
    function createNetwork(address operator, address admin, address treasury, uint16 feeBps, bytes32 salt)
        external
        returns (bytes32 id)
    {
        require(operator != address(0) && admin != address(0) && treasury != address(0), ZeroAddress());
        require(feeBps <= MAX_FEE_BPS, FeeTooHigh());
        id = keccak256(abi.encode(msg.sender, admin, treasury, feeBps, salt));
        Network storage n = networks[id];
        require(n.admin == address(0), NetworkExists());
        n.operator = operator;
        n.feeBps = feeBps;
        n.admin = admin;
        n.treasury = treasury;
        emit NetworkCreated(id, admin, operator, treasury, feeBps);
    }

    /// Replaces the operator key. The old one keeps serving reservations that end within GRACE.
    function rotateOperator(bytes32 network, address operator) external {
        Network storage n = _ownNetwork(network);
        require(operator != address(0), ZeroAddress());
        uint256 rotatedAt = n.rotatedAt;
        require(rotatedAt == 0 || block.timestamp > rotatedAt + EXIT_DELAY, TooEarly(rotatedAt + EXIT_DELAY + 1));
        address previous = n.operator;
        n.previousOperator = previous;
        n.operator = operator;
        n.rotatedAt = uint40(block.timestamp);
        emit OperatorRotated(network, operator, previous);
    }

    /// Adds to a network's bond, from anyone.
    function addBond(bytes32 network, uint256 amount) external nonReentrant {
        Network storage n = _network(network);
        uint256 arrived = _pull(amount);
        n.bond += uint96(arrived);
        emit BondAdded(network, arrived);
    }

    /// Gives notice that up to `amount` of the bond will leave. A new notice restarts the time; 0 cancels.
    function requestBond(bytes32 network, uint96 amount) external {
        Network storage n = _ownNetwork(network);
        n.bondPending = amount;
        n.bondRequestedAt = uint40(block.timestamp);
        emit BondRequested(network, amount);
    }

    /// Takes what was given notice of, as far as the bond still has it.
    function withdrawBond(bytes32 network, address to) external nonReentrant {
        Network storage n = _ownNetwork(network);
        uint256 amount = n.bondPending;
        require(amount != 0, NothingPending());
        uint256 notBefore = n.bondRequestedAt + BOND_NOTICE + 1;
        require(block.timestamp >= notBefore, TooEarly(notBefore));
        amount = _min(amount, n.bond);
        n.bond -= uint96(amount);
        n.bondPending = 0;
        emit BondWithdrawn(network, to, amount);
        _push(to, amount);
    }

    // ---- deposits ----

    /// Deposits the caller's tokens for `owner`. What the bond paid for the owner before is repaid first.
    function deposit(bytes32 network, address owner, uint256 amount) external nonReentrant {
        _deposit(network, owner, amount);
    }

    /// The same with the caller's ERC-2612 permit. A permit that fails, because somebody else submitted it first,
    /// does no harm as long as the allowance suffices.
    function depositWithPermit(
        bytes32 network,
        address owner,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(network, owner, amount);
    }

    /// Asks to take up to `amount` out without the operator. A new request restarts the time; 0 cancels.
    function requestWithdraw(bytes32 network, uint96 amount) external {
        Account storage a = accounts[network][msg.sender];
        a.pending = amount;
        a.requestedAt = uint40(block.timestamp);
        emit WithdrawRequested(network, msg.sender, amount);
    }

    /// Takes what was asked for, as far as the balance still has it, longer than EXIT_DELAY after the request.
    function withdraw(bytes32 network, address to) external nonReentrant {
        Account storage a = accounts[network][msg.sender];
        uint256 amount = a.pending;
        require(amount != 0, NothingPending());
        uint256 notBefore = a.requestedAt + EXIT_DELAY + 1;
        require(block.timestamp >= notBefore, TooEarly(notBefore));
        uint256 balance = a.balance;
        amount = _min(amount, balance);
        a.balance = uint96(balance - amount);
        a.pending = 0;
        a.requestedAt = 0;
        emit Withdrawn(network, msg.sender, to, amount);
        _push(to, amount);
    }

    /// Takes a deposit out at once, by its owner, with the operator's consent.
    function withdrawWithOperator(Withdrawal calldata w, CompactSignature calldata signature) external nonReentrant {
        require(msg.sender == w.owner, NotOwner());
        require(block.timestamp <= w.deadline, Expired());
        Account storage a = accounts[w.network][w.owner];
        uint64 nonce = a.withdrawalNonce;
        require(w.nonce == nonce, WrongNonce(nonce));
        address signer = _recover(_hashTypedDataV4(w.hash()), signature);
        require(signer != address(0) && signer == networks[w.network].operator, InvalidSignature());
        uint256 balance = a.balance;
        require(w.amount <= balance, InsufficientFunds(balance));
        a.withdrawalNonce = nonce + 1;
        a.balance = uint96(balance - w.amount);
        emit Withdrawn(w.network, w.owner, w.to, w.amount);
        _push(w.to, w.amount);
    }

    // ---- session keys ----

    /// Lets a session key spend a deposit; submitted by anyone, signed by the payer's wallet (ECDSA or ERC-1271).
    /// It never shortens what was granted before, so that no accepted reservation lapses early.
    function authorize(Authorization calldata a, bytes calldata signature) external {
        require(a.signer != address(0), ZeroAddress());
        Account storage account = accounts[a.network][a.payer];
        uint64 nonce = account.authorizationNonce;
        require(a.nonce == nonce, WrongNonce(nonce));
        account.authorizationNonce = nonce + 1;
        _requireSignedBy(a.payer, _hashTypedDataV4(a.hash()), signature);
        _allowSigner(a.network, a.payer, a.signer, a.validTo);
    }

    /// Lets `signer` sign the caller's vouchers until `validTo`: for wallets that execute rather than sign.
    function grant(bytes32 network, address signer, uint40 validTo) external {
        require(signer != address(0), ZeroAddress());
        _allowSigner(network, msg.sender, signer, validTo);
    }

    /// Ends a session key GRACE from now at the latest, and voids authorisations that were signed but not submitted.
    function revoke(bytes32 network, address signer) external {
        ++accounts[network][msg.sender].authorizationNonce;
        uint256 validTo = _min(signers[network][msg.sender][signer], block.timestamp + GRACE);
        signers[network][msg.sender][signer] = validTo;
        emit SignerChanged(network, msg.sender, signer, validTo);
    }

    // ---- claims ----

    /// Pays claims, submitted by anyone. Each row emits exactly one Settled or Skipped, in order; a row that is
    /// skipped changes nothing and never stops the others.
    function settle(Row[] calldata rows) external {
        bytes32 domain = _domainSeparatorV4();
        for (uint256 i = 0; i < rows.length; ++i) {
            Row calldata row = rows[i];
            bytes32 id = row.channel.hash();
            (bool good, Skip reason) = _check(domain, id, row);
            if (good) (good, reason) = _pay(id, row);
            if (!good) emit Skipped(id, reason);
        }
    }

    /// Sets the reservation's uncovered capacity aside for its channel until GRACE after the reservation, by the
    /// provider. The payer's voucher proves that it wants the channel.
    function hold(Row calldata row) external {
        Channel calldata c = row.channel;
        require(msg.sender == c.provider, NotProvider());
        bytes32 id = c.hash();
        (bool good, Skip reason) = _check(_domainSeparatorV4(), id, row);
        require(good, HoldRejected(reason));
        require(row.validUntil <= block.timestamp + GRACE, HoldTooLong());

        Account storage a = accounts[c.network][c.payer];
        ChannelState storage s = channels[id];
        if (block.timestamp > s.heldUntil) _release(id, s, a);
        uint256 until = row.validUntil + GRACE;
        uint256 held = s.held;
        if (held != 0) {
            // What is set aside already may not be kept longer against a payer who asked to leave.
            require(until <= s.heldUntil || !_outlastsExit(a, row.validUntil), HoldDuringExit());
            until = _max(until, s.heldUntil);
        }
        uint256 covered = s.claimed + held;
        uint256 balance = a.balance;
        // What was asked for is free only for a hold that is over by then: an older hold may outlast the reservation.
        uint256 free = _free(a, balance, until - GRACE);
        uint256 amount = row.capacity > covered ? _min(row.capacity - covered, free) : 0;
        require(amount != 0, HoldRejected(Skip.Unfunded));
        a.balance = uint96(balance - amount);
        s.held = uint96(held + amount);
        s.heldUntil = uint40(until);
        emit Held(id, amount, until);
    }

    /// Gives a hold back to the payer's balance: by anyone once its time is over, by the provider at any time.
    function releaseHold(Channel calldata c) external {
        bytes32 id = c.hash();
        ChannelState storage s = channels[id];
        require(msg.sender == c.provider || block.timestamp > s.heldUntil, TooEarly(uint256(s.heldUntil) + 1));
        _release(id, s, accounts[c.network][c.payer]);
    }

    // ---- credits ----

    /// Pays the caller's credits out to any address.
    function withdrawCredits(address to, uint256 amount) external nonReentrant {
        _payCredits(msg.sender, to, amount);
    }

    /// Pays an owner's credits out by its signature (ECDSA or ERC-1271); submitted by anyone.
    function transferCredits(CreditsTransfer calldata t, bytes calldata signature) external nonReentrant {
        require(block.timestamp <= t.deadline, Expired());
        uint64 nonce = credits[t.owner].nonce;
        require(t.nonce == nonce, WrongNonce(nonce));
        credits[t.owner].nonce = nonce + 1;
        _requireSignedBy(t.owner, _hashTypedDataV4(t.hash()), signature);
        _payCredits(t.owner, t.to, t.amount);
    }

    // ---- views ----

    /// The id of a channel: its EIP-712 struct hash.
    function channelId(Channel calldata c) external pure returns (bytes32) {
        return c.hash();
    }

    /// The EIP-712 domain separator that every signature is bound to.
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // ---- inside ----

    /// Whether a row's signatures and times hold; says nothing about money.
    function _check(bytes32 domain, bytes32 id, Row calldata row) private view returns (bool, Skip) {
        Channel calldata c = row.channel;
        if (block.timestamp > row.validUntil + GRACE) return (false, Skip.Expired);
        if (row.validUntil > signers[c.network][c.payer][c.payerSigner]) return (false, Skip.SignerExpired);
        bytes32 structHash = Messages.reservation(id, row.capacity, row.validUntil);
        address signer = _recover(MessageHashUtils.toTypedDataHash(domain, structHash), row.reservation);
        if (!_serves(networks[c.network], signer, row.validUntil)) return (false, Skip.NotOperator);
        structHash = Messages.voucher(id, row.cumulative, row.receiptHash);
        signer = _recover(MessageHashUtils.toTypedDataHash(domain, structHash), row.voucher);
        if (signer == address(0) || signer != c.payerSigner) return (false, Skip.NotPayerSigner);
        return (true, Skip.NothingDue);
    }

    /// Whether `signer` is the network's operator for reservations that end at `validUntil`.
    function _serves(Network storage n, address signer, uint256 validUntil) private view returns (bool) {
        if (signer == address(0)) return false;
        if (signer == n.operator) return true;
        return validUntil <= n.rotatedAt + GRACE && signer == n.previousOperator;
    }

    /// Pays what a checked row is due, as far as the money goes.
    function _pay(bytes32 id, Row calldata row) private returns (bool, Skip) {
        Channel calldata c = row.channel;
        ChannelState storage s = channels[id];
        uint256 claimed = s.claimed;
        uint256 due = _min(row.cumulative, row.capacity);
        if (due <= claimed) return (false, Skip.NothingDue);
        Account storage a = accounts[c.network][c.payer];
        Network storage n = networks[c.network];
        // A hold whose time is over is the payer's balance again.
        bool lapsed = s.held != 0 && block.timestamp > s.heldUntil;
        // `claimed` has 112 bits; all tokens together fit 65,536 times.
        Split memory split = _split(s, a, n, lapsed, _min(due, type(uint112).max) - claimed, row.validUntil);
        uint256 paid = split.fromHeld + split.fromBalance + split.fromBond;
        if (paid == 0) return (false, Skip.Unfunded);

        if (lapsed) _release(id, s, a);
        s.claimed = uint112(claimed + paid);
        if (split.fromHeld != 0) s.held -= uint96(split.fromHeld);
        if (split.fromBalance != 0) a.balance -= uint96(split.fromBalance);
        if (split.fromBond != 0) {
            n.bond -= uint96(split.fromBond);
            a.debt += uint128(split.fromBond);
        }
        uint256 fee = (claimed + paid) * n.feeBps / BPS - claimed * n.feeBps / BPS;
        credits[c.provider].amount += uint128(paid - fee);
        if (fee != 0) credits[n.treasury].amount += uint128(fee);
        emit Settled(id, c.provider, paid, fee, claimed + paid, split.unpaid, split.fromBond);
        return (true, Skip.NothingDue);
    }

    /// Where `due` comes from: the hold, then the balance, then the bond.
    function _split(
        ChannelState storage s,
        Account storage a,
        Network storage n,
        bool lapsed,
        uint256 due,
        uint256 validUntil
    ) private view returns (Split memory split) {
        uint256 held = s.held;
        uint256 balance = a.balance;
        if (lapsed) (held, balance) = (0, balance + held);
        split.fromHeld = _min(due, held);
        due -= split.fromHeld;
        if (due != 0) {
            split.fromBalance = _min(due, _free(a, balance, validUntil));
            due -= split.fromBalance;
        }
        if (due != 0) {
            split.fromBond = _min(due, n.bond);
            due -= split.fromBond;
        }
        split.unpaid = due;
    }

    /// The part of `balance` that a reservation ending at `validUntil` may draw on.
    function _free(Account storage a, uint256 balance, uint256 validUntil) private view returns (uint256) {
        if (!_outlastsExit(a, validUntil)) return balance;
        uint256 pending = a.pending;
        return balance > pending ? balance - pending : 0;
    }

    /// Whether a reservation ends too late to draw on what its payer asked to take out.
    function _outlastsExit(Account storage a, uint256 validUntil) private view returns (bool) {
        return a.pending != 0 && validUntil > a.requestedAt + GRACE;
    }

    function _release(bytes32 id, ChannelState storage s, Account storage a) private {
        uint256 amount = s.held;
        if (amount == 0) return;
        s.held = 0;
        s.heldUntil = 0;
        a.balance += uint96(amount);
        emit Released(id, amount);
    }

    function _deposit(bytes32 network, address owner, uint256 amount) private {
        require(owner != address(0), ZeroAddress());
        Network storage n = _network(network);
        uint256 arrived = _pull(amount);
        Account storage a = accounts[network][owner];
        uint256 debt = a.debt;
        uint256 repaid = _min(arrived, debt);
        if (repaid != 0) {
            a.debt = uint128(debt - repaid);
            n.bond += uint96(repaid);
        }
        a.balance += uint96(arrived - repaid);
        emit Deposited(network, owner, arrived, repaid);
    }

    /// Takes the caller's tokens and returns what really arrived.
    function _pull(uint256 amount) private returns (uint256 arrived) {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 total = token.balanceOf(address(this));
        require(total > before, NothingArrived());
        // Everything kept here is a part of this sum, so that no part can overflow its 96 bits.
        require(total <= type(uint96).max, TooManyTokens());
        return total - before;
    }

    /// Pays tokens out; to anyone but this contract, where they would belong to nobody.
    function _push(address to, uint256 amount) private {
        require(to != address(this), PayoutToSelf());
        token.safeTransfer(to, amount);
    }

    function _payCredits(address owner, address to, uint256 amount) private {
        Credit storage credit = credits[owner];
        uint256 available = credit.amount;
        require(amount <= available, InsufficientFunds(available));
        credit.amount = uint128(available - amount);
        emit CreditsWithdrawn(owner, to, amount);
        _push(to, amount);
    }

    /// ECDSA first: an account with delegated code (EIP-7702) still has its key.
    function _requireSignedBy(address signer, bytes32 hash, bytes calldata signature) private view {
        (address recovered, ECDSA.RecoverError e,) = ECDSA.tryRecoverCalldata(hash, signature);
        if (e == ECDSA.RecoverError.NoError && recovered == signer) return;
        bool valid = signer.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNowCalldata(signer, hash, signature);
        require(valid, InvalidSignature());
    }

    /// The signer, or zero for a signature that is not valid with a low `s`.
    /// Never shortens: only a revocation does.
    function _allowSigner(bytes32 network, address payer, address signer, uint256 validTo) private {
        validTo = _max(signers[network][payer][signer], validTo);
        signers[network][payer][signer] = validTo;
        emit SignerChanged(network, payer, signer, validTo);
    }

    function _recover(bytes32 hash, CompactSignature calldata signature) private pure returns (address signer) {
        (signer,,) = ECDSA.tryRecover(hash, signature.r, signature.vs);
    }

    function _network(bytes32 id) private view returns (Network storage n) {
        n = networks[id];
        require(n.admin != address(0), NoSuchNetwork());
    }

    function _ownNetwork(bytes32 id) private view returns (Network storage n) {
        n = networks[id];
        require(msg.sender == n.admin, NotAdmin());
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }

    function _max(uint256 a, uint256 b) private pure returns (uint256) {
        return a > b ? a : b;
    }
}
