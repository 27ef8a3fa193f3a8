//! Every model, in all its orders.

#![allow(missing_docs)]

/// Runs a model, which must have had more orders than one.
fn run(model: fn() -> usize) {
    let orders = model();
    println!("{orders} orders");
    assert!(orders > 1, "nothing ran beside anything: {orders}");
}

#[test]
fn links_added_beside_a_walk() {
    run(embdb_orders::links_added_beside_a_walk);
}

#[test]
fn links_pruned_beside_a_walk() {
    run(embdb_orders::links_pruned_beside_a_walk);
}

#[test]
fn links_changed_by_three_threads() {
    run(embdb_orders::links_changed_by_three_threads);
}

#[test]
fn pages_verified_by_two_threads() {
    run(embdb_orders::pages_verified_by_two_threads);
}

#[test]
fn states_replaced_beside_a_reader() {
    run(embdb_orders::states_replaced_beside_a_reader);
}
