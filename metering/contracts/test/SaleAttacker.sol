// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// A contributor that is a contract: it calls the sale again when it is paid, or refuses to be paid.
contract SaleAttacker {
    address private _sale;
    bytes private _again;
    bool private _refusing;
    bool private _reentered;
    uint256 private _attempts;

    error Refused();

    /// Calls a sale, with the ether sent along.
    function act(address sale, bytes calldata call_) external payable {
        _sale = sale;
        (bool success, bytes memory reason) = sale.call{value: msg.value}(call_);
        if (success) return;
        assembly {
            revert(add(reason, 32), mload(reason))
        }
    }

    /// What to call when ether arrives.
    function plan(bytes calldata again, bool refusing) external {
        _again = again;
        _refusing = refusing;
    }

    /// How often it called again, and whether any of that succeeded.
    function tried() external view returns (uint256 attempts, bool reentered) {
        return (_attempts, _reentered);
    }

    receive() external payable {
        require(!_refusing, Refused());
        if (_again.length == 0) return;
        ++_attempts;
        (bool success,) = _sale.call(_again);
        if (success) _reentered = true;
    }
}
