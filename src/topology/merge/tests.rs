use std::time::Instant;

use super::super::membership::select;
use super::super::view::{Info, parse};
use super::*;
use crate::net::AddressMap;

fn view(lines: &str) -> View {
    view_at(1, lines)
}

/// The view of the node that was asked at `port`.
fn view_at(port: u16, lines: &str) -> View {
    let from = NodeAddr::new("127.0.0.1", port);
    let nodes = parse(lines, &from, &AddressMap::default()).unwrap();
    View { from, asked: Instant::now(), info: Info::default(), nodes }
}

/// What a refresher makes of the views, with the seeds at ports 1 to 3.
fn learn(before: Option<&Snapshot>, views: &[View]) -> Option<Snapshot> {
    let seeds: Vec<NodeAddr> = (1..=3).map(|port| NodeAddr::new("127.0.0.1", port)).collect();
    let selection = select(before, views, &seeds, |_| false);
    let before = before.filter(|_| !selection.anew);
    (!selection.counted.is_empty()).then(|| merge(before, &selection.counted, &Names::new()))
}

/// The same, where somebody must count.
fn merged(before: Option<&Snapshot>, views: &[View]) -> Snapshot {
    learn(before, views).unwrap()
}

fn owner(snapshot: &Snapshot, slot: u16) -> Option<String> {
    snapshot.table.owner(slot).map(|shard| shard.id.to_string())
}

const BEFORE: &str = "a 127.0.0.1:1@11 master - 0 0 1 connected 0-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\n";
const MOVED: &str = "a 127.0.0.1:1@11 master - 0 0 1 connected 1-8000\nb 127.0.0.1:2@12 master - 0 0 3 connected 0 8001-16383\n";

#[test]
fn an_older_view_never_undoes_a_newer_one() {
    let first = merged(None, &[view(BEFORE)]);
    assert_eq!(owner(&first, 0).unwrap(), "a");
    let moved = merged(Some(&first), &[view(MOVED)]);
    assert_eq!(owner(&moved, 0).unwrap(), "b");
    let stale = merged(Some(&moved), &[view(BEFORE)]);
    assert_eq!(owner(&stale, 0).unwrap(), "b");
    for views in [[view(BEFORE), view(MOVED)], [view(MOVED), view(BEFORE)]] {
        assert_eq!(owner(&merged(Some(&first), &views), 0).unwrap(), "b");
    }
}

#[test]
fn equal_tables_are_the_same() {
    let first = merged(None, &[view(BEFORE)]);
    let again = merged(Some(&first), &[view(BEFORE)]);
    assert!(Arc::ptr_eq(&first.table, &again.table));
}

#[test]
fn a_failover_moves_all_slots_and_the_old_primary_stays_known() {
    let first = merged(None, &[view(BEFORE)]);
    let after = "a 127.0.0.1:1@11 slave c 0 0 4 connected\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 master - 0 0 4 connected 0-8000\n";
    let after = merged(Some(&first), &[view(after)]);
    assert_eq!(owner(&after, 5).unwrap(), "c");
    assert!(after.table.known.contains_key(&NodeAddr::new("127.0.0.1", 1)));
    assert_eq!(after.table.shards.len(), 2);
}

#[test]
fn slots_that_were_given_up_have_no_owner() {
    let first = merged(None, &[view(BEFORE)]);
    let after = "a 127.0.0.1:1@11 master - 0 0 1 connected 1-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\n";
    let others = merged(Some(&first), &[view(after)]);
    assert_eq!(owner(&others, 0).unwrap(), "a", "that is for itself to say");
    let after = merged(Some(&first), &[view(&after.replacen("master", "myself,master", 1))]);
    assert_eq!((owner(&after, 0), after.table.covered()), (None, SLOTS - 1));
}

#[test]
fn a_node_that_knows_only_itself_takes_nothing_away() {
    let first = merged(None, &[view(BEFORE)]);
    let alone = "b 127.0.0.1:2@12 myself,master - 0 0 0 connected\n";
    assert!(learn(Some(&first), &[view(alone)]).is_none());
    for views in [[view(alone), view(BEFORE)], [view(BEFORE), view(alone)]] {
        assert_eq!(merged(Some(&first), &views).table.covered(), SLOTS);
        assert_eq!(merged(None, &views).table.covered(), SLOTS);
    }
}

#[test]
fn a_view_that_lacks_a_new_node_does_not_take_its_slots_away() {
    let first = merged(None, &[view(BEFORE)]);
    let new = format!("{MOVED}c 127.0.0.1:3@13 master - 0 0 9 connected 5\n").replace("1-8000", "1-4 6-8000");
    for views in [[view(BEFORE), view(&new)], [view(&new), view(BEFORE)]] {
        assert_eq!(owner(&merged(Some(&first), &views), 5).unwrap(), "c");
    }
}

#[test]
fn a_cluster_that_was_made_anew_is_taken_over() {
    let first = merged(None, &[view(BEFORE)]);
    let anew = "x 127.0.0.1:1@11 myself,master - 0 0 1 connected 0-16383\n";
    assert_eq!(owner(&merged(Some(&first), &[view(anew)]), 5).unwrap(), "x");
    let alone = merged(None, &[view(anew)]);
    assert_eq!(merged(Some(&alone), &[view(anew)]).table.covered(), SLOTS);
}

#[test]
fn a_restarted_primary_with_an_old_configuration_undoes_nothing() {
    let first = merged(None, &[view(BEFORE)]);
    let after = "a 127.0.0.1:1@11 slave c 0 0 4 connected\nb 127.0.0.1:2@12 myself,master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 master - 0 0 4 connected 0-8000\n";
    let failed_over = merged(Some(&first), &[view(after)]);
    assert_eq!(owner(&failed_over, 5).unwrap(), "c");
    // It does not know of the node that took over, nor of its epoch; and it is the only one that answers.
    let old = BEFORE.replace(" master - 0 0 1", " myself,master - 0 0 1");
    let alone = merged(Some(&failed_over), &[view(&old)]);
    assert_eq!(owner(&alone, 5).unwrap(), "c");
    let to_c = NodeAddr::new("127.0.0.1", 3);
    assert_eq!(alone.table.known.get(&to_c), Some(&to_c));
    // Once a node that has heard of all that happened does not name the new owner either, it has gone.
    let mut later = view(&old);
    later.info.epoch = 4;
    assert_eq!(owner(&merged(Some(&alone), &[later]), 5).unwrap(), "a");
}

#[test]
fn nodes_that_find_the_cluster_down_count_only_if_all_do() {
    let first = merged(None, &[view(BEFORE)]);
    let down = |lines: &str| {
        let mut view = view(lines);
        view.info.is_down = true;
        view
    };
    let after = merged(Some(&first), &[down(MOVED), view(BEFORE)]);
    assert_eq!((owner(&after, 0).unwrap(), after.state), ("a".into(), State::Well));
    let after = merged(Some(&first), &[down(MOVED)]);
    assert_eq!((owner(&after, 0).unwrap(), after.state), ("b".into(), State::Down));
    let after = merged(Some(&first), &[down(&MOVED.replace("0 8001", "8001"))]);
    assert_eq!(after.state, State::Refusing);
}

#[test]
fn a_majority_decides_only_between_equal_epochs() {
    let claims = |a: u64, a_slots: &str, b: u64, b_slots: &str| {
        view(&format!(
            "a 127.0.0.1:1@11 master - 0 0 {a} connected {a_slots}\nb 127.0.0.1:2@12 master - 0 0 {b} connected {b_slots}\n"
        ))
    };
    let (to_a, to_b) = (claims(5, "0-8000", 5, "8001-16383"), claims(5, "1-8000", 5, "0 8001-16383"));
    for views in [[to_a.clone(), to_b.clone(), to_b.clone()], [to_b.clone(), to_a.clone(), to_b.clone()]] {
        assert_eq!(owner(&merged(None, &views), 0).unwrap(), "b");
        // Not against what was known.
        let before = merged(None, std::slice::from_ref(&to_a));
        assert_eq!(owner(&merged(Some(&before), &views), 0).unwrap(), "a");
    }
    let newer = claims(5, "1-8000", 6, "0 8001-16383");
    for views in [[to_a.clone(), to_a.clone(), newer.clone()], [newer.clone(), to_a.clone(), to_a.clone()]] {
        assert_eq!(owner(&merged(None, &views), 0).unwrap(), "b");
    }
    // One against one: it stays as it was.
    for (before, after) in [(&to_a, "a"), (&to_b, "b")] {
        let before = merged(None, std::slice::from_ref(before));
        for views in [[to_a.clone(), to_b.clone()], [to_b.clone(), to_a.clone()]] {
            assert_eq!(owner(&merged(Some(&before), &views), 0).unwrap(), after);
        }
    }
}

/// After a failover from `a` to `c`, as servers were seen to tell it for 0.8 s: `b` had heard a message that `a`
/// published as a replica, with the epoch of its primary, so that of `c`, before it heard of `c` itself.
#[test]
fn a_failover_is_not_undone_by_who_has_heard_the_old_primary_last() {
    let late = "a 127.0.0.1:1@11 master - 0 0 4 connected 0-8000\nb 127.0.0.1:2@12 myself,master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 master - 0 0 4 connected\n";
    // Then it has heard that `a` is a replica, and not again of `c`.
    let nobody = late.replace("1@11 master - 0 0 4 connected 0-8000", "1@11 slave c 0 0 4 connected");
    let told = "a 127.0.0.1:1@11 master - 0 0 4 connected\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 myself,master - 0 0 4 connected 0-8000\n";
    let (late, nobody, told) = (view_at(2, late), view_at(2, &nobody), view_at(3, told));
    let first = merged(None, &[view(&format!("{BEFORE}c 127.0.0.1:3@13 slave a 0 0 1 connected\n"))]);
    let late_first = merged(Some(&first), std::slice::from_ref(&late));
    assert_eq!(owner(&late_first, 5).unwrap(), "a");
    for before in [None, Some(&first), Some(&late_first)] {
        for views in
            [[late.clone(), told.clone(), late.clone()], [nobody.clone(), told.clone(), late.clone()]]
        {
            assert_eq!(owner(&merged(before, &views), 5).unwrap(), "c");
        }
    }
    let after = merged(Some(&first), &[told]);
    for views in [[late.clone(), late.clone()], [nobody.clone(), nobody.clone()], [late, nobody]] {
        assert_eq!(owner(&merged(Some(&after), &views), 5).unwrap(), "c");
    }
}

#[test]
fn the_owners_own_word_that_a_slot_is_not_its_own_goes_before_what_others_say() {
    let own = BEFORE.replace(" master - 0 0 1 connected 0-", " myself,master - 0 0 1 connected 1-");
    let other = BEFORE.replace(" master - 0 0 2", " myself,master - 0 0 2");
    let first = merged(None, &[view(BEFORE)]);
    for views in [[view(&own), view(&other)], [view(&other), view(&own)]] {
        assert_eq!(owner(&merged(Some(&first), &views), 0), None);
        assert_eq!(owner(&merged(None, &views), 0), None);
    }
}

#[test]
fn a_slot_that_moves_while_nodes_are_asked_is_never_without_an_owner() {
    let target_before = BEFORE.replace(" master - 0 0 2", " myself,master - 0 0 2");
    let source_after = "a 127.0.0.1:1@11 myself,master - 0 0 1 connected 1-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 0 8001-16383\n";
    let first = merged(None, &[view(BEFORE)]);
    for views in [[view(&target_before), view(source_after)], [view(source_after), view(&target_before)]] {
        for before in [None, Some(&first)] {
            assert_eq!(owner(&merged(before, &views), 0).unwrap(), "b");
        }
    }
}

#[test]
fn an_owner_that_gives_a_slot_to_a_node_of_a_lower_epoch_is_believed() {
    let first = merged(None, &[view(MOVED)]);
    assert_eq!(owner(&first, 0).unwrap(), "b");
    let own = MOVED.replace("1-8000", "0-8000").replace("0 8001", "8001");
    assert_eq!(owner(&merged(Some(&first), &[view(&own)]), 0).unwrap(), "b", "others may be late");
    let own = own.replace(" master - 0 0 3", " myself,master - 0 0 3");
    assert_eq!(owner(&merged(Some(&first), &[view(&own)]), 0).unwrap(), "a");
}

/// A node that was removed: it names the others, and none of them names it.
const REMOVED: &str = "r 127.0.0.1:3@13 myself,master - 0 0 9 connected 0-8000\na 127.0.0.1:1@11 master - 0 0 1 connected\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\n";

#[test]
fn a_removed_node_that_comes_back_has_no_say() {
    let [a, b] = ["master - 0 0 1", "master - 0 0 2"]
        .map(|role| view_at(1, &BEFORE.replace(role, &format!("myself,{role}"))));
    let first = merged(None, &[view(BEFORE)]);
    let removed = view_at(3, REMOVED);
    for views in [vec![removed.clone(), a.clone()], vec![b.clone(), removed.clone(), a]] {
        for before in [None, Some(&first)] {
            let after = merged(before, &views);
            assert_eq!(owner(&after, 5).unwrap(), "a");
            assert!(!after.members.contains_key("r"));
        }
    }
    assert!(learn(Some(&first), std::slice::from_ref(&removed)).is_none(), "nobody else answers");
    let selection = [removed, b];
    let selection = select(Some(&first), &selection, &[], |_| false);
    assert_eq!((selection.counted.len(), selection.outsiders.len()), (1, 1));
}

const OTHER: &str =
    "x 127.0.0.1:7@17 myself,master - 0 0 99 connected 0-16383\ny 127.0.0.1:8@18 slave x 0 0 99 connected\n";

#[test]
fn the_cluster_of_the_first_seed_that_answers_counts_and_others_are_never_merged() {
    let (ours, other) = (view_at(2, BEFORE), view_at(3, OTHER));
    let first = merged(None, &[other.clone(), ours.clone()]);
    assert_eq!(owner(&first, 5).unwrap(), "a");
    assert_eq!(owner(&merged(None, &[view_at(1, OTHER), ours.clone()]), 5).unwrap(), "x");
    let both = [other.clone(), ours];
    let selection = select(Some(&first), &both, &[], |_| false);
    assert_eq!((selection.counted.len(), selection.outsiders.len(), selection.anew), (1, 1, false));
    // Nor when nobody else answers, if it was outside before, or is no seed.
    let seeds = [NodeAddr::new("127.0.0.1", 3)];
    for selection in [
        select(Some(&first), std::slice::from_ref(&other), &seeds, |_| true),
        select(Some(&first), std::slice::from_ref(&other), &[], |_| false),
    ] {
        assert!(selection.counted.is_empty() && !selection.anew);
    }
}

#[test]
fn a_node_is_found_by_every_name_that_it_has() {
    let mut map = AddressMap::default();
    map.add("10.0.0.1:6379=127.0.0.1:1").unwrap();
    let from = NodeAddr::new("127.0.0.1", 1);
    let lines = "a 10.0.0.1:6379@16379,one.x myself,master - 0 0 1 connected 0-16383\nb 10.0.0.2:6379@1 slave a 0 0 1 connected\n";
    let nodes = parse(lines, &from, &map).unwrap();
    let view = View { from: from.clone(), asked: Instant::now(), info: Info::default(), nodes };
    let reply =
        "*1\r\n*2\r\n$5\r\nnodes\r\n*1\r\n*4\r\n$2\r\nid\r\n$1\r\na\r\n$8\r\nendpoint\r\n$5\r\nuno.x\r\n";
    let names = super::super::names::shards(reply.as_bytes()).unwrap();
    let snapshot = merge(None, &[&view], &names);
    assert_eq!(snapshot.table.shards[0].addr, from);
    for name in ["10.0.0.1:6379", "one.x:6379", "uno.x:6379", "127.0.0.1:1"] {
        assert_eq!(snapshot.table.known.get(&name.parse().unwrap()), Some(&from), "{name}");
    }
    let facts = snapshot.shards();
    assert_eq!((facts[0].slots.clone(), facts[0].replicas.len()), (vec![(0, 16383)], 1));
    assert_eq!(&*facts[0].replicas[0].id, "b");
}
