// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The token that leases are paid in: ERC-20 with ERC-2612 permits and a supply fixed at deployment.
contract IPSX is ERC20, ERC20Permit {
    /// Every unit that will ever exist.
    uint256 public constant SUPPLY = 1_800_000_000e18;

    /// @param recipient who receives the whole supply.
    constructor(address recipient) ERC20("IPSX", "IPSX") ERC20Permit("IPSX") {
        _mint(recipient, SUPPLY);
    }
}
