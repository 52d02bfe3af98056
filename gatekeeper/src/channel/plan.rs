//! Which requests have a card of their own on a channel, and which stand in a digest: under a flood, cards for each would
//! bury what matters and use up what the server allows.
//!
//! Pure. A request that has a card keeps it. Of those that have none, the oldest of each agent run get one while the run has
//! fewer than [`CARDS_PER_RUN`] that wait; the others stand in the run's digest, and move up when places free up.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::RequestId;

/// Cards of one agent run that wait at once. Nobody weighs more than a handful at a time, and what follows from the first
/// decisions often settles the rest.
pub(super) const CARDS_PER_RUN: usize = 5;

/// An open request, in the order in which requests came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Which.
    pub(super) request: RequestId,
    /// The agent run that asks.
    pub(super) run: String,
    /// There is a card, or somebody wants one.
    pub(super) has_card: bool,
}

/// Where each request is to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// With a card of their own.
    pub(super) cards: BTreeSet<RequestId>,
    /// In the digest of each run, oldest first. None is empty.
    pub(super) digests: BTreeMap<String, Vec<RequestId>>,
}

/// Says where each request is to be shown.
pub(super) fn plan(waiting: &[Waiting]) -> Plan {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for Waiting { run, .. } in waiting.iter().filter(|waiting| waiting.has_card) {
        *taken.entry(run).or_default() += 1;
    }
    let mut plan = Plan::default();
    for Waiting { request, run, has_card } in waiting {
        let places = taken.entry(run).or_default();
        if *has_card {
            plan.cards.insert(*request);
        } else if *places < CARDS_PER_RUN {
            *places += 1;
            plan.cards.insert(*request);
        } else {
            plan.digests.entry(run.clone()).or_default().push(*request);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(number: u64, run: &str, has_card: bool) -> Waiting {
        Waiting { request: RequestId::new(1, number), run: run.to_owned(), has_card }
    }

    #[test]
    fn the_oldest_have_cards_and_the_others_move_up() {
        let mut all: Vec<_> = (0..8).map(|number| waiting(number, "a", false)).collect();
        all.push(waiting(8, "b", false));
        let first = plan(&all);
        let ids = |numbers: &[u64]| numbers.iter().map(|number| RequestId::new(1, *number)).collect::<Vec<_>>();
        assert_eq!(first.cards, ids(&[0, 1, 2, 3, 4, 8]).into_iter().collect());
        assert_eq!(first.digests, BTreeMap::from([("a".to_owned(), ids(&[5, 6, 7]))]));
        for waiting in &mut all {
            waiting.has_card = first.cards.contains(&waiting.request);
        }
        all.remove(2);
        assert_eq!(plan(&all).digests, BTreeMap::from([("a".to_owned(), ids(&[6, 7]))]));
        // Somebody asks for the last one: it has a card beyond the places.
        all[6].has_card = true;
        assert_eq!(plan(&all).digests, BTreeMap::from([("a".to_owned(), ids(&[5, 6]))]));
    }

    proptest! {
        #[test]
        fn none_is_lost_and_no_card_is_taken_away(
            all in proptest::collection::vec((0_u64..60, 0_usize..3, any::<bool>()), 0..60),
        ) {
            let mut known = BTreeSet::new();
            let all: Vec<_> = all
                .into_iter()
                .filter(|(number, ..)| known.insert(*number))
                .map(|(number, run, has_card)| waiting(number, ["a", "b", "c"][run], has_card))
                .collect();
            let Plan { cards, digests } = plan(&all);
            let in_digests: Vec<_> = digests.values().flatten().copied().collect();
            let everywhere: BTreeSet<_> = cards.iter().copied().chain(in_digests.iter().copied()).collect();
            prop_assert_eq!(everywhere, all.iter().map(|waiting| waiting.request).collect::<BTreeSet<_>>());
            prop_assert_eq!(cards.len() + in_digests.len(), all.len(), "none is in two places");
            for run in ["a", "b", "c"] {
                let of_run: Vec<_> = all.iter().filter(|waiting| waiting.run == run).collect();
                let had = of_run.iter().filter(|waiting| waiting.has_card).count();
                let have = of_run.iter().filter(|waiting| cards.contains(&waiting.request)).count();
                prop_assert!(of_run.iter().all(|waiting| !waiting.has_card || cards.contains(&waiting.request)));
                prop_assert_eq!(have, of_run.len().min(CARDS_PER_RUN.max(had)));
                prop_assert!(digests.get(run).is_none_or(|digest| !digest.is_empty()));
                // Who came first gets a card first.
                let new: Vec<_> = of_run.iter().filter(|waiting| !waiting.has_card).collect();
                prop_assert!(new.is_sorted_by_key(|waiting| !cards.contains(&waiting.request)));
            }
        }
    }
}
