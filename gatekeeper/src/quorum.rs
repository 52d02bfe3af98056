//! How many of whom it takes to approve: `2 of ops`, `ops and security`, `2 of ops or 1 of leads`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Stands for every declared reviewer in place of a group.
pub const ANYONE: &str = "anyone";

/// Most people that one rule may want: more is a mistake, and the search for an assignment stays short.
const MOST: u32 = 16;

/// Some people of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// How many, from 1.
    pub count: u32,
    /// Of which group; [`ANYONE`] is all.
    pub group: String,
}

/// What approves a request: all seats of any of the alternatives, each taken by a person of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum(Vec<Vec<Seat>>);

/// Text that is no quorum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuorum(String);

impl Quorum {
    /// Every group that it names, [`ANYONE`] left out.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|seat| seat.group.as_str()).filter(|group| *group != ANYONE)
    }

    /// Whether somebody of these groups could take one of the seats.
    pub fn asks(&self, groups: &BTreeSet<String>) -> bool {
        self.0.iter().flatten().any(|seat| seat.takes(groups))
    }

    /// Whether these people, by their groups, are enough.
    pub fn is_met<'a>(&self, people: impl IntoIterator<Item = &'a BTreeSet<String>>) -> bool {
        let people: Vec<_> = people.into_iter().collect();
        self.0.iter().any(|seats| all_seated(seats, &people))
    }

    /// This, or else what `other` says.
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }
}

impl Seat {
    fn takes(&self, groups: &BTreeSet<String>) -> bool {
        self.group == ANYONE || groups.contains(&self.group)
    }
}

/// Finds each seat a person of its own: a matching, by augmenting paths.
fn all_seated(seats: &[Seat], people: &[&BTreeSet<String>]) -> bool {
    let single: Vec<&Seat> = seats
        .iter()
        .flat_map(|seat| std::iter::repeat_n(seat, usize::try_from(seat.count).unwrap_or(usize::MAX)))
        .collect();
    let mut seat_of: Vec<Option<usize>> = vec![None; people.len()];
    (0..single.len()).all(|seat| take_place(seat, &single, people, &mut seat_of, &mut vec![false; people.len()]))
}

fn take_place(
    seat: usize,
    seats: &[&Seat],
    people: &[&BTreeSet<String>],
    seat_of: &mut [Option<usize>],
    asked: &mut [bool],
) -> bool {
    for person in 0..people.len() {
        if asked[person] || !seats[seat].takes(people[person]) {
            continue;
        }
        asked[person] = true;
        // Who sits there already may have another seat to go to.
        if seat_of[person].is_none_or(|other| take_place(other, seats, people, seat_of, asked)) {
            seat_of[person] = Some(seat);
            return true;
        }
    }
    false
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, seats) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { " or " })?;
            for (position, Seat { count, group }) in seats.iter().enumerate() {
                f.write_str(if position == 0 { "" } else { " and " })?;
                if *count == 1 { f.write_str(group)? } else { write!(f, "{count} of {group}")? }
            }
        }
        Ok(())
    }
}

impl FromStr for Quorum {
    type Err = BadQuorum;

    fn from_str(text: &str) -> Result<Self, BadQuorum> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let alternatives = words.split(|word| *word == "or").map(|alternative| {
            let seats = alternative.split(|word| *word == "and").map(seat).collect::<Result<Vec<_>, _>>()?;
            let people = seats.iter().map(|seat| seat.count).fold(0, u32::saturating_add);
            if people > MOST {
                return Err(BadQuorum(format!("{people} people are wanted, and at most {MOST} can be")));
            }
            Ok(seats)
        });
        alternatives.collect::<Result<_, _>>().map(Self)
    }
}

fn seat(words: &[&str]) -> Result<Seat, BadQuorum> {
    let (count, group) = match words {
        [group] => (1, group),
        [count, "of", group] => {
            let number = count.parse().ok().filter(|count| (1..=MOST).contains(count));
            (number.ok_or_else(|| BadQuorum(format!("{count:?} is no number from 1 to {MOST}")))?, group)
        }
        [] => return Err(BadQuorum("a group is missing".to_owned())),
        _ => return Err(BadQuorum(format!("{:?} is neither GROUP nor NUMBER of GROUP", words.join(" ")))),
    };
    let is_name = group.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_name || ["and", "or", "of"].contains(group) {
        return Err(BadQuorum(format!("{group:?} is no name of a group")));
    }
    Ok(Seat { count, group: (*group).to_owned() })
}

impl Serialize for Quorum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quorum(text: &str) -> Quorum {
        text.parse().unwrap()
    }

    fn people(groups: &[&[&str]]) -> Vec<BTreeSet<String>> {
        groups.iter().map(|groups| groups.iter().map(ToString::to_string).collect()).collect()
    }

    #[test]
    fn one_person_fills_one_seat() {
        let both = quorum("ops and security");
        assert!(!both.is_met(&people(&[&["ops", "security"]])));
        assert!(both.is_met(&people(&[&["ops", "security"], &["ops"]])));
        // The first fits both seats and has to leave the one that only they can take to nobody else.
        assert!(both.is_met(&people(&[&["ops"], &["ops", "security"]])));
        assert!(!both.is_met(&people(&[&["ops"], &["ops"]])));
        assert!(quorum("2 of ops").is_met(&people(&[&["ops"], &[], &["ops"]])));
        assert!(!quorum("2 of ops").is_met(&people(&[&["ops"], &["security"]])));
    }

    #[test]
    fn one_alternative_is_enough() {
        let either = quorum("2 of ops or leads");
        assert!(either.is_met(&people(&[&["leads"]])));
        assert!(either.is_met(&people(&[&["ops"], &["ops"]])));
        assert!(!either.is_met(&people(&[&["ops"]])));
        assert!(quorum("2 of anyone").is_met(&people(&[&[], &[]])));
    }

    #[test]
    fn what_is_no_quorum_is_told() {
        for (bad, why) in [
            ("", "a group is missing"),
            ("ops and", "a group is missing"),
            ("two of ops", "\"two\" is no number from 1 to 16"),
            ("0 of ops", "\"0\" is no number from 1 to 16"),
            ("2 ops", "\"2 ops\" is neither GROUP nor NUMBER of GROUP"),
            ("o/ps", "\"o/ps\" is no name of a group"),
            ("of", "\"of\" is no name of a group"),
            ("9 of ops and 9 of leads", "18 people are wanted, and at most 16 can be"),
        ] {
            assert_eq!(bad.parse::<Quorum>().unwrap_err().to_string(), why);
        }
    }

    proptest! {
        #[test]
        fn shown_quorums_read_back(seats in proptest::collection::vec(
            proptest::collection::vec((1_u32..4, "[a-c]{1,2}"), 1..4), 1..4,
        )) {
            let seats = seats.into_iter().map(|all| all.into_iter().map(|(count, group)| Seat { count, group }).collect());
            let written = Quorum(seats.collect());
            prop_assert_eq!(written.to_string().parse(), Ok(written));
        }

        /// Against trying every assignment.
        #[test]
        fn a_matching_is_found_whenever_there_is_one(
            seats in proptest::collection::vec(0_u8..3, 0..5),
            people in proptest::collection::vec(0_u8..8, 0..5),
        ) {
            fn any_assignment(seats: &[u8], people: &mut Vec<u8>) -> bool {
                let Some((seat, rest)) = seats.split_first() else { return true };
                (0..people.len()).any(|at| {
                    let person = people.remove(at);
                    let found = person >> seat & 1 != 0 && any_assignment(rest, people);
                    people.insert(at, person);
                    found
                })
            }
            let named = |group: u8| format!("g{group}");
            let quorum = Quorum(vec![seats.iter().map(|s| Seat { count: 1, group: named(*s) }).collect()]);
            let groups: Vec<BTreeSet<String>> =
                people.iter().map(|bits| (0..3).filter(|g| bits >> g & 1 != 0).map(named).collect()).collect();
            prop_assert_eq!(quorum.is_met(&groups), any_assignment(&seats, &mut people.clone()));
        }
    }
}
