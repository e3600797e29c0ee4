//! The contracts' ABI. A test compares it with the artifacts that are deployed.

#![allow(missing_docs)]

use alloy_primitives::Bytes;

alloy_sol_types::sol! {
    #[derive(Debug)]
    struct Authorization { bytes32 network; address payer; address signer; uint40 validTo; uint64 nonce; }
    #[derive(Debug)]
    struct Channel { bytes32 network; address payer; address payerSigner; address provider; bytes32 salt; }
    #[derive(Debug)]
    struct Withdrawal {
        bytes32 network; address owner; address to; uint128 amount; uint64 nonce; uint40 deadline;
    }
    #[derive(Debug)]
    struct CreditsTransfer { address owner; address to; uint128 amount; uint64 nonce; uint40 deadline; }
    #[derive(Debug)]
    struct CompactSignature { bytes32 r; bytes32 vs; }
    #[derive(Debug)]
    struct Row {
        Channel channel; uint128 capacity; uint40 validUntil; CompactSignature reservation;
        uint128 cumulative; bytes32 receiptHash; CompactSignature voucher;
    }

    #[derive(Debug)]
    interface Centralizer {
        enum Skip { Expired, SignerExpired, NotOperator, NotPayerSigner, NothingDue, Unfunded }

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
        event SignerChanged(
            bytes32 indexed network, address indexed payer, address indexed signer, uint256 validTo
        );
        event Settled(
            bytes32 indexed channelId, address indexed provider,
            uint256 paid, uint256 fee, uint256 claimed, uint256 unpaid, uint256 fromBond
        );
        event Skipped(bytes32 indexed channelId, Skip reason);
        event Held(bytes32 indexed channelId, uint256 amount, uint256 until);
        event Released(bytes32 indexed channelId, uint256 amount);
        event CreditsWithdrawn(address indexed owner, address to, uint256 amount);
        event EIP712DomainChanged();

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
        error ReentrancyGuardReentrantCall();
        error SafeERC20FailedOperation(address token);
        error InvalidShortString();
        error StringTooLong(string str);

        function GRACE() external view returns (uint256);
        function EXIT_DELAY() external view returns (uint256);
        function BOND_NOTICE() external view returns (uint256);
        function MAX_FEE_BPS() external view returns (uint256);
        function token() external view returns (address);
        function networks(bytes32 id) external view returns (
            address operator, uint40 rotatedAt, uint16 feeBps, address previousOperator, address admin,
            uint40 bondRequestedAt, address treasury, uint96 bond, uint96 bondPending
        );
        function accounts(bytes32 network, address owner) external view returns (
            uint96 balance, uint96 pending, uint40 requestedAt, uint128 debt,
            uint64 withdrawalNonce, uint64 authorizationNonce
        );
        function signers(bytes32 network, address payer, address signer) external view returns (uint256);
        function channels(bytes32 channelId) external view returns (uint112 claimed, uint96 held, uint40 heldUntil);
        function credits(address owner) external view returns (uint128 amount, uint64 nonce);
        function channelId(Channel calldata c) external pure returns (bytes32);
        function domainSeparator() external view returns (bytes32);
        function eip712Domain() external view returns (
            bytes1 fields, string name, string version, uint256 chainId, address verifyingContract,
            bytes32 salt, uint256[] extensions
        );

        function createNetwork(address operator, address admin, address treasury, uint16 feeBps, bytes32 salt)
            external returns (bytes32 id);
        function rotateOperator(bytes32 network, address operator) external;
        function addBond(bytes32 network, uint256 amount) external;
        function requestBond(bytes32 network, uint96 amount) external;
        function withdrawBond(bytes32 network, address to) external;
        function deposit(bytes32 network, address owner, uint256 amount) external;
        function depositWithPermit(
            bytes32 network, address owner, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s
        ) external;
        function requestWithdraw(bytes32 network, uint96 amount) external;
        function withdraw(bytes32 network, address to) external;
        function withdrawWithOperator(Withdrawal calldata w, CompactSignature calldata signature) external;
        function authorize(Authorization calldata a, bytes calldata signature) external;
        function grant(bytes32 network, address signer, uint40 validTo) external;
        function revoke(bytes32 network, address signer) external;
        function settle(Row[] calldata rows) external;
        function hold(Row calldata row) external;
        function releaseHold(Channel calldata c) external;
        function withdrawCredits(address to, uint256 amount) external;
        function transferCredits(CreditsTransfer calldata t, bytes calldata signature) external;
    }

    interface Erc20Permit {
        error ERC20InsufficientAllowance(address spender, uint256 allowance, uint256 needed);
        error ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed);

        function totalSupply() external view returns (uint256);
        function balanceOf(address account) external view returns (uint256);
        function allowance(address owner, address spender) external view returns (uint256);
        function approve(address spender, uint256 value) external returns (bool);
        function transfer(address to, uint256 value) external returns (bool);
        function nonces(address owner) external view returns (uint256);
        function permit(
            address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s
        ) external;
        function DOMAIN_SEPARATOR() external view returns (bytes32);
    }

    struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
}

const CENTRALIZER: &str = include_str!("../../contracts/artifacts/Centralizer.json");
const IPSX: &str = include_str!("../../contracts/artifacts/IPSX.json");

/// Deployment code of the `Centralizer`, without its constructor's arguments.
pub(crate) fn centralizer_code() -> Bytes {
    code(CENTRALIZER)
}

/// Deployment code of the IPSX token, without its constructor's arguments.
pub(crate) fn ipsx_code() -> Bytes {
    code(IPSX)
}

fn code(artifact: &str) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Artifact {
        bytecode: Bytes,
    }
    let artifact: Artifact =
        serde_json::from_str(artifact).expect("artifacts are checked when they are built");
    artifact.bytecode
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::keccak256;
    use alloy_sol_types::SolInterface;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// `(a,b[])` for a tuple, its own name for every other type.
    fn type_name(parameter: &Value) -> String {
        let name = parameter["type"].as_str().unwrap();
        match name.strip_prefix("tuple") {
            Some(suffix) => format!("{}{suffix}", types(&parameter["components"])),
            None => name.to_string(),
        }
    }

    fn types(parameters: &Value) -> String {
        let names: Vec<_> = parameters
            .as_array()
            .unwrap()
            .iter()
            .map(type_name)
            .collect();
        format!("({})", names.join(","))
    }

    fn signatures(artifact: &str, kind: &str) -> BTreeSet<String> {
        let artifact: Value = serde_json::from_str(artifact).unwrap();
        let abi = artifact["abi"].as_array().unwrap();
        abi.iter()
            .filter(|item| item["type"] == kind)
            .map(|item| {
                format!(
                    "{}{}",
                    item["name"].as_str().unwrap(),
                    types(&item["inputs"])
                )
            })
            .collect()
    }

    fn selectors(signatures: &BTreeSet<String>) -> BTreeSet<[u8; 4]> {
        let first = |s: &String| keccak256(s)[..4].try_into().unwrap();
        signatures.iter().map(first).collect()
    }

    #[test]
    fn the_binding_is_the_artifacts_abi() {
        let calls: BTreeSet<_> = Centralizer::CentralizerCalls::selectors().collect();
        assert_eq!(calls, selectors(&signatures(CENTRALIZER, "function")));
        let errors: BTreeSet<_> = Centralizer::CentralizerErrors::selectors().collect();
        assert_eq!(errors, selectors(&signatures(CENTRALIZER, "error")));
        let events: BTreeSet<_> = signatures(CENTRALIZER, "event")
            .iter()
            .map(|s| keccak256(s).0)
            .collect();
        let bound: BTreeSet<_> = Centralizer::CentralizerEvents::SELECTORS
            .iter()
            .copied()
            .collect();
        assert_eq!(bound, events);
        let token = selectors(&signatures(IPSX, "function"));
        assert!(Erc20Permit::Erc20PermitCalls::selectors().all(|s| token.contains(&s)));
    }

    #[test]
    fn outputs_and_indexed_fields_match_too() {
        let artifact: Value = serde_json::from_str(CENTRALIZER).unwrap();
        let outputs = |name: &str| {
            let abi = artifact["abi"].as_array().unwrap();
            let item = abi.iter().find(|item| item["name"] == name).unwrap();
            types(&item["outputs"])
        };
        assert_eq!(
            outputs("networks"),
            "(address,uint40,uint16,address,address,uint40,address,uint96,uint96)"
        );
        assert_eq!(
            outputs("accounts"),
            "(uint96,uint96,uint40,uint128,uint64,uint64)"
        );
        assert_eq!(outputs("channels"), "(uint112,uint96,uint40)");
        assert_eq!(outputs("credits"), "(uint128,uint64)");
        let settled = artifact["abi"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["name"] == "Settled")
            .unwrap();
        let indexed: Vec<_> = settled["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|input| input["indexed"].as_bool().unwrap())
            .collect();
        assert_eq!(indexed, [true, true, false, false, false, false, false]);
    }
}
