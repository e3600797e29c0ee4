// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// A token that takes a fee on transfers, blocks an address, or calls back during a transfer.
contract HostileToken is ERC20 {
    uint256 private _feeBps;
    address private _blocked;
    address private _callee;
    bytes private _call;
    bool private _callSucceeded;

    error Blocked();

    constructor(address recipient) ERC20("Hostile", "HOST") {
        _mint(recipient, 1_000_000e18);
    }

    function setFee(uint256 feeBps) external {
        _feeBps = feeBps;
    }

    function setBlocked(address who) external {
        _blocked = who;
    }

    function setCallback(address callee, bytes calldata call_) external {
        _callee = callee;
        _call = call_;
    }

    function callSucceeded() external view returns (bool) {
        return _callSucceeded;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(to == address(0) || to != _blocked, Blocked());
        uint256 fee = from == address(0) ? 0 : value * _feeBps / 10_000;
        if (fee != 0) super._update(from, address(0xfee), fee);
        super._update(from, to, value - fee);
        if (_callee != address(0)) {
            (bool success,) = _callee.call(_call);
            _callSucceeded = success;
        }
    }
}
