//! What follows from comparing the kernel side's holds with the broker's.

use std::collections::HashSet;

use super::{
    super::{Effect, Now},
    Broker, Progress, RESTORE_AFTER_NS,
};

impl Broker {
    pub(super) fn scan(&mut self, in_kernel: &HashSet<u64>, taken_ns: u64, now: Now, effects: &mut Vec<Effect>) {
        let mut gone = Vec::new();
        let mut unapplied = Vec::new();
        for (&hold, open) in &self.open {
            if !in_kernel.contains(&hold) {
                if open.since_ns < taken_ns {
                    gone.push((hold, open.progress));
                }
            } else if let Progress::Stored(at_ns) = open.progress
                && now.boot_ns.saturating_sub(at_ns) >= RESTORE_AFTER_NS
            {
                unapplied.push(hold);
            }
        }
        // In the order in which they began, as everything else is told.
        gone.sort_unstable_by_key(|(hold, _)| *hold);
        unapplied.sort_unstable();
        for (hold, progress) in gone {
            match progress {
                // Stored after the scan began: it may have been applied since, and its event is on the way.
                Progress::Stored(at_ns) if at_ns >= taken_ns => {}
                Progress::Stored(_) => self.applied_presumably(hold, effects),
                Progress::Pending | Progress::Undurable(_) => self.withdraw(hold, true, effects),
            }
        }
        for hold in unapplied {
            self.store(hold, now, effects);
        }
        let lost: Vec<_> = self.restored.keys().copied().filter(|hold| !in_kernel.contains(hold)).collect();
        for hold in lost {
            match self.restored.get(&hold).and_then(|restored| restored.decision.as_ref()).map(|d| d.effect) {
                Some(effect) => self.restored_applied(hold, effect, true, effects),
                None => self.withdraw(hold, true, effects),
            }
        }
        let known = |hold: &u64| self.open.contains_key(hold) || self.ended_set.contains(hold);
        let mut unknown: Vec<_> = in_kernel.iter().copied().filter(|hold| !known(hold)).collect();
        unknown.sort_unstable();
        effects.extend(unknown.into_iter().map(|hold| Effect::Report { hold }));
    }
}
