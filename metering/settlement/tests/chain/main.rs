//! The contracts through their client, the same cases on each backend: the embedded EVM, the embedded EVM served as
//! JSON-RPC over HTTP, and a real node (anvil).

#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "tests draw random ids, read one switch and say what they skip"
)]

mod anvil;
mod boundaries;
mod claiming;
mod exits;
mod gas;
mod histories;
mod keys;
mod kills;
mod leaving;
mod lifecycle;
mod model;
mod money;
mod permits;
mod persistence;
mod promises;
mod rows;
mod sale;
mod sale_attacks;
mod sale_histories;
mod selling;
mod sending;
mod served;
mod signatures;
mod tokens;
mod voucher_kills;
mod world;

/// Makes a test of each case for each backend.
macro_rules! on_every_backend {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { crate::$module::$case(crate::world::World::embedded().await).await; })*
        }
        mod served_over_http {
            $(#[tokio::test] async fn $case() { crate::$module::$case(crate::world::World::served().await).await; })*
        }
        mod on_anvil {
            $(#[tokio::test] async fn $case() {
                if let Some(world) = crate::world::World::anvil().await {
                    crate::$module::$case(world).await;
                }
            })*
        }
    };
}

on_every_backend![
    lifecycle::a_deposit_is_spent_and_the_rest_withdrawn,
    lifecycle::a_relayer_pays_out_credits_by_signature,
    lifecycle::refusals_are_named_before_anything_is_sent,
    money::fees_are_exact_however_claims_are_split,
    money::duplicates_and_older_vouchers_change_nothing,
    money::a_claim_ends_at_the_capacity_and_at_the_deposit,
    money::the_bond_pays_and_the_next_deposit_repays_it,
    money::a_poisoned_row_never_stops_a_batch,
    money::a_bond_leaves_after_seven_days,
    signatures::nothing_replays_elsewhere,
    signatures::forged_rows_are_skipped,
    signatures::nothing_on_a_network_without_keys_is_paid,
    keys::a_revoked_key_serves_for_a_day,
    keys::an_authorisation_never_shortens_and_a_revocation_voids_the_unsent,
    keys::a_rotated_operator_serves_for_a_day,
    keys::a_contract_wallet_pays_until_it_turns_bad,
    exits::reservations_lapse_a_day_after_they_end,
    exits::a_pending_withdrawal_is_kept_from_later_reservations,
    exits::a_withdrawal_can_not_be_hoarded,
    exits::a_hold_is_the_channels_until_it_lapses,
    exits::a_hold_is_not_kept_longer_against_a_payer_who_leaves,
    exits::a_long_hold_takes_nothing_of_what_leaves,
    permits::a_front_run_permit_does_no_harm,
    tokens::a_token_that_takes_a_fee_is_measured,
    tokens::a_token_that_calls_back_gets_nothing,
    tokens::a_blocked_address_is_paid_elsewhere,
    selling::a_sale_that_succeeds_pays_in_proportion,
    selling::a_sale_that_fails_pays_everything_back,
    selling::a_sale_ends_at_its_cap,
    selling::limits_are_set_before_the_period_and_never_in_it,
    selling::a_sale_without_limits_never_opens,
    selling::tokens_are_created_in_the_period_and_move_after_success,
    selling::leases_can_be_paid_in_the_sales_token,
    selling::terms_that_make_no_sale_are_refused,
    sale_attacks::a_refund_that_calls_back_pays_once,
    sale_attacks::a_beneficiary_that_calls_back_is_paid_once,
    sale_attacks::who_refuses_its_refund_stops_nobody,
    sale_attacks::forced_ether_changes_nothing,
    claiming::the_store_is_claimed_once_whatever_crashes,
];
