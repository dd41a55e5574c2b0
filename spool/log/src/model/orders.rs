//! Which memory orders the models of `tests` need: each of the code's is weakened in turn.

use std::collections::BTreeMap;
use std::process::Command;

use crate::model::sync::{FAILS_RELAXED, NO_FENCE, Weakened, candidates, weaken};
use crate::model::tests::{MODELS, explore, explore_up_to};

/// Tells the order to weaken: `file:line:column=order`.
const WEAKENED: &str = "VERNEUIL_LOOM_WEAKENED";
const BEGINS: &str = "begins: ";

/// Weakens one memory order of the code at a time, and says which model finds it.
#[test]
#[ignore = "takes half an hour: after a change of memory orders"]
fn which_memory_orders_are_needed() {
    for model in &MODELS {
        explore_up_to(model, Some(200));
    }
    let mut places: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for weakened in candidates() {
        places
            .entry(weakened.place)
            .or_default()
            .push(weakened.order);
    }
    for (place, mut orders) in places {
        // If nobody needs any of it, nobody needs a part of it.
        orders.sort_by_key(|order| !matches!(*order, "Relaxed" | NO_FENCE));
        for order in orders {
            let weakened = Weakened {
                place: place.clone(),
                order,
            };
            let found = find(&weakened);
            println!(
                "{place} -> {order}: {}",
                found.as_deref().unwrap_or("NOT FOUND")
            );
            if found.is_none() && order != FAILS_RELAXED {
                break;
            }
        }
    }
}

/// Which model finds it, and how it says so. In a process of its own: a model that fails leaves loom in no state to go on.
fn find(weakened: &Weakened) -> Option<String> {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "model::orders::one_weakened_order",
            "--ignored",
            "--nocapture",
        ])
        .env(WEAKENED, format!("{}={}", weakened.place, weakened.order))
        .output()
        .expect("running this program");
    if output.status.success() {
        return None;
    }
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let model = out
        .lines()
        .filter_map(|line| line.split_once(BEGINS))
        .last();
    let why = err
        .lines()
        .skip_while(|line| !line.contains("panicked at"))
        .nth(1);
    Some(format!(
        "{}: {}",
        model.map_or("?", |(_, name)| name),
        why.unwrap_or("?")
    ))
}

/// Run by the test above.
#[test]
#[ignore = "for `which_memory_orders_are_needed`"]
fn one_weakened_order() {
    let text = std::env::var(WEAKENED).expect("place=order");
    weaken(&text);
    for model in &MODELS {
        println!("{BEGINS}{}", model.name);
        explore(model);
    }
}
