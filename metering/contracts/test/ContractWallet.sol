// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// A wallet that is a contract (ERC-1271), executes what its key says, and can turn bad after it was trusted.
contract ContractWallet {
    enum Mood {
        Honest,
        Refusing,
        BurningGas
    }

    address private immutable _key;
    Mood private _mood;

    constructor(address key) {
        _key = key;
    }

    function setMood(Mood mood) external {
        _mood = mood;
    }

    function execute(address to, bytes calldata data) external {
        require(msg.sender == _key, "not the key");
        (bool good, bytes memory answer) = to.call(data);
        if (!good) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (_mood == Mood.BurningGas) {
            for (uint256 i = 0; gasleft() > 0; ++i) {}
        }
        (address signer,,) = ECDSA.tryRecover(hash, signature);
        bool good = _mood == Mood.Honest && signer == _key;
        return good ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}
