//! The configuration files as they are written: every key optional, every value with its place, nothing checked but its
//! shape. Only this module's siblings see these types; everybody else sees what `checked` makes of them.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

/// `gatekeeper.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MainFile {
    pub(super) mode: Option<Spanned<String>>,
    pub(super) rules: Option<Spanned<Items>>,
    #[serde(default)]
    pub(super) paths: Table<Paths>,
    #[serde(default)]
    pub(super) limits: Table<Limits>,
    #[serde(default)]
    pub(super) control: Table<Control>,
    #[serde(default)]
    pub(super) defaults: Table<Defaults>,
    #[serde(default)]
    pub(super) agent: Vec<Spanned<Table<Agent>>>,
    #[serde(default)]
    pub(super) reviewer: Vec<Spanned<Table<Reviewer>>>,
    #[serde(default)]
    pub(super) channel: Vec<Spanned<Table<Channel>>>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<Table<Rule>>>,
}

/// A file that `rules` names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    #[serde(default)]
    pub(super) rule: Vec<Spanned<Table<Rule>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paths {
    pub(super) state: Option<Spanned<String>>,
    pub(super) runtime: Option<Spanned<String>>,
    pub(super) bpf: Option<Spanned<String>>,
    pub(super) cgroup: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) holds: Option<Spanned<i64>>,
    pub(super) ring_bytes: Option<Spanned<i64>>,
    pub(super) prefixes: Option<Spanned<i64>>,
    pub(super) ports: Option<Spanned<i64>>,
    pub(super) agents: Option<Spanned<i64>>,
    pub(super) reruns_per_second: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub(super) group: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    pub(super) deadline: Option<Spanned<String>>,
    pub(super) errno: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) name: Option<Spanned<String>>,
    pub(super) cgroups: Option<Spanned<Items>>,
    #[serde(default)]
    pub(super) labels: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) intent: Option<Spanned<String>>,
    pub(super) owner: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reviewer {
    pub(super) name: Option<Spanned<String>>,
    pub(super) groups: Option<Spanned<Items>>,
    pub(super) user: Option<Spanned<Items>>,
    pub(super) matrix: Option<Spanned<String>>,
    pub(super) slack: Option<Spanned<String>>,
    pub(super) teams: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
}

/// The keys of all types of channel; which of them fit is for the check to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channel {
    pub(super) name: Option<Spanned<String>>,
    #[serde(rename = "type")]
    pub(super) kind: Option<Spanned<String>>,
    pub(super) homeserver: Option<Spanned<String>>,
    pub(super) room: Option<Spanned<String>>,
    pub(super) token: Option<Spanned<String>>,
    pub(super) workspace: Option<Spanned<String>>,
    pub(super) conversation: Option<Spanned<String>>,
    pub(super) app_token: Option<Spanned<String>>,
    pub(super) bot_token: Option<Spanned<String>>,
    pub(super) api: Option<Spanned<String>>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) signing_key: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) app_id: Option<Spanned<String>>,
    pub(super) tenant: Option<Spanned<String>>,
    pub(super) secret: Option<Spanned<String>>,
    pub(super) service_url: Option<Spanned<String>>,
    pub(super) token_url: Option<Spanned<String>>,
    pub(super) openid_url: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: Option<Spanned<String>>,
    pub(super) action: Option<Spanned<Items>>,
    pub(super) agent: Option<Spanned<Items>>,
    pub(super) user: Option<Spanned<Items>>,
    pub(super) path: Option<Spanned<Items>>,
    pub(super) args: Option<Spanned<Items>>,
    pub(super) port: Option<Spanned<Items>>,
    pub(super) address: Option<Spanned<Items>>,
    pub(super) verdict: Option<Spanned<String>>,
    pub(super) errno: Option<Spanned<String>>,
    pub(super) deadline: Option<Spanned<String>>,
    pub(super) danger_allow_on_timeout: Option<Spanned<bool>>,
    pub(super) risk: Option<Spanned<String>>,
    pub(super) reason: Option<Spanned<String>>,
    pub(super) reviewers: Option<Spanned<String>>,
    pub(super) escalate: Option<Spanned<Items>>,
    pub(super) danger_self_review: Option<Spanned<bool>>,
    pub(super) comment: Option<Spanned<String>>,
    pub(super) second_factor: Option<Spanned<bool>>,
    pub(super) grants: Option<Spanned<Items>>,
}

/// A table. Without it serde would also take a list and give its values to the keys in their order.
#[derive(Debug, Default)]
pub(super) struct Table<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }

        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

/// One value, or a list of them.
#[derive(Debug)]
pub(super) enum Items {
    One(Item),
    Many(Vec<Spanned<Item>>),
}

/// A value that is text or a number: which of them a key takes is for the check to say, in the key's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Text(String),
    Number(i64),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl Visitor<'_> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Item, E> {
                Ok(Item::Number(number))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;

        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, a whole number, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<Items, E> {
                Ok(Items::One(Item::Text(text.to_owned())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Items, E> {
                Ok(Items::One(Item::Number(number)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    items.push(item);
                }
                Ok(Items::Many(items))
            }
        }

        deserializer.deserialize_any(ItemsVisitor)
    }
}
