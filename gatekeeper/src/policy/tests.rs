//! What rules match, which one wins, and that the kernel side's tables miss nothing.

use std::{net::IpAddr, time::Duration};

use gatekeeper_common::{KindSet, PREFIX_BYTES};
use proptest::prelude::*;

use super::{tables::Tables, *};
use crate::{
    action::{ActionKind, Address, Target},
    request::{Comment, Risk},
    text::Text,
};

const EXEC: KindSet = gatekeeper_common::ActionKind::EXEC.bit();

fn rule(name: &str, kinds: KindSet, verdict: RuleVerdict) -> Rule {
    Rule {
        name: name.to_owned(),
        kinds,
        agents: None,
        users: None,
        paths: None,
        args: Vec::new(),
        ports: None,
        addresses: None,
        verdict,
        reason: None,
    }
}

fn ask() -> RuleVerdict {
    RuleVerdict::Ask {
        deadline: Duration::from_secs(60),
        danger_allow_on_timeout: false,
        risk: Risk::Medium,
        quorum: None,
        escalation: Vec::new(),
        danger_self_review: false,
        comment: Default::default(),
        second_factor: false,
        grants: Vec::new(),
    }
}

fn deny() -> RuleVerdict {
    RuleVerdict::Deny { errno: DenyErrno::EPERM }
}

fn paths(patterns: &[impl AsRef<str>]) -> Option<Vec<Pattern>> {
    Some(patterns.iter().map(|source| Pattern::new(source.as_ref(), PatternOf::Path).expect("pattern")).collect())
}

fn words(patterns: &[&str]) -> Vec<Pattern> {
    patterns.iter().map(|source| Pattern::new(source, PatternOf::Word).expect("pattern")).collect()
}

fn addresses(patterns: &[&str]) -> Option<Vec<AddressPattern>> {
    Some(patterns.iter().map(|source| AddressPattern::new(source).expect("address")).collect())
}

fn ports(ranges: &[&str]) -> Option<PortSet> {
    Some(PortSet::new(ranges.iter().map(|range| PortSet::range(range).expect("port")).collect()))
}

fn action(kind: ActionKind, target: Target) -> Action {
    Action {
        kind,
        agent: "coder".to_owned(),
        uid: 1000,
        gid: 1000,
        target,
        object: None,
        foreign_mount: false,
        digest: String::new(),
    }
}

fn file(kind: ActionKind, path: &str) -> Action {
    rename(kind, path, None)
}

fn rename(kind: ActionKind, path: &str, new_path: Option<&str>) -> Action {
    let new_path = new_path.map(Text::from);
    action(kind, Target::File { path: path.into(), new_path, argument: None, detail: 0, other: None })
}

fn exec(path: &str, args: &[&str]) -> Action {
    let target = Target::Program {
        path: path.into(),
        called: path.into(),
        args: args.iter().map(|arg| Text::from(*arg)).collect(),
        env: Vec::new(),
        interpreter: false,
        cwd: None,
    };
    action(ActionKind::Exec, target)
}

fn ip(kind: ActionKind, ip: &str, port: u16) -> Action {
    socket(kind, Address::Ip { ip: ip.parse().expect("ip"), port })
}

fn socket(kind: ActionKind, address: Address) -> Action {
    action(kind, Target::Socket { address })
}

fn unix(name: &str) -> Action {
    socket(ActionKind::Connect, Address::Unix(name.into()))
}

fn winner(policy: &Policy, action: &Action) -> Option<String> {
    policy.evaluate(action).rule
}

#[test]
fn the_first_rule_that_matches_wins() {
    let policy = Policy::new(vec![
        Rule { paths: paths(&["/etc/motd"]), ..rule("motd", KindSet::WRITE, RuleVerdict::Allow) },
        Rule { paths: paths(&["/etc/**"]), reason: Some("why".into()), ..rule("etc", KindSet::WRITE, ask()) },
        Rule { paths: paths(&["/etc/shadow"]), ..rule("shadow", KindSet::WRITE, deny()) },
    ]);
    let motd = policy.evaluate(&file(ActionKind::Open, "/etc/motd"));
    assert_eq!((motd.rule.as_deref(), motd.outcome), (Some("motd"), Outcome::Allow));
    let shadow = policy.evaluate(&file(ActionKind::Open, "/etc/shadow"));
    assert_eq!(shadow.rule.as_deref(), Some("etc"));
    assert_eq!(shadow.reason.as_deref(), Some("why"));
    let Outcome::Ask(ask) = shadow.outcome else { panic!("no ask") };
    assert_eq!((ask.rule.as_str(), ask.deadline, ask.reason.as_deref()), ("etc", Duration::from_secs(60), Some("why")));
    let other = policy.evaluate(&file(ActionKind::Open, "/tmp/x"));
    assert_eq!(other, Evaluation { rule: None, reason: None, outcome: Outcome::Allow });
    assert_eq!(winner(&policy, &exec("/etc/x", &["x"])), None);
}

#[test]
fn agents_and_users_narrow_a_rule() {
    let policy = Policy::new(vec![Rule {
        agents: Some(["coder".to_owned()].into()),
        users: Some([0, 1000].into()),
        ..rule("guard", EXEC, deny())
    }]);
    let mut action = exec("/usr/bin/x", &["x"]);
    assert_eq!(policy.evaluate(&action).outcome, Outcome::Deny { errno: 1 });
    action.uid = 1001;
    assert_eq!(winner(&policy, &action), None);
    action.uid = 0;
    action.agent = "other".to_owned();
    assert_eq!(winner(&policy, &action), None);
}

#[test]
fn every_argument_pattern_must_match_some_argument_behind_the_name() {
    let guard = Rule { args: words(&["push", "--force*"]), ..rule("push", EXEC, deny()) };
    let policy = Policy::new(vec![guard]);
    let matches = |args: &[&str]| winner(&policy, &exec("/usr/bin/git", args)).is_some();
    assert!(matches(&["git", "push", "--force"]));
    assert!(matches(&["git", "--force-with-lease=x", "origin", "push"]));
    assert!(!matches(&["git", "push"]));
    assert!(!matches(&["push", "--force"]));
    assert!(!matches(&[]));
}

#[test]
fn one_of_two_paths_restricts_and_both_allow() {
    let guarded = Policy::new(vec![Rule { paths: paths(&["/etc/**"]), ..rule("etc", KindSet::WRITE, deny()) }]);
    let free = Policy::new(vec![
        Rule { paths: paths(&["/tmp/**"]), ..rule("tmp", KindSet::WRITE, RuleVerdict::Allow) },
        rule("rest", KindSet::WRITE, deny()),
    ]);
    for kind in [ActionKind::Link, ActionKind::Rename] {
        assert!(winner(&guarded, &rename(kind, "/tmp/a", Some("/etc/a"))).is_some());
        assert!(winner(&guarded, &rename(kind, "/etc/a", Some("/tmp/a"))).is_some());
        assert!(winner(&guarded, &rename(kind, "/tmp/a", Some("/tmp/b"))).is_none());
        assert_eq!(winner(&free, &rename(kind, "/tmp/a", Some("/tmp/b"))).as_deref(), Some("tmp"));
        assert_eq!(winner(&free, &rename(kind, "/etc/a", Some("/tmp/b"))).as_deref(), Some("rest"));
        assert_eq!(winner(&free, &rename(kind, "/tmp/a", Some("/etc/b"))).as_deref(), Some("rest"));
    }
}

#[test]
fn a_path_over_a_foreign_mount_matches_what_restricts_and_nothing_that_allows() {
    let policy = Policy::new(vec![
        Rule { paths: paths(&["/tmp/**"]), ..rule("tmp", KindSet::WRITE, RuleVerdict::Allow) },
        Rule { paths: paths(&["/etc/**"]), users: Some([0].into()), ..rule("root", KindSet::WRITE, deny()) },
        Rule { paths: paths(&["/etc/**"]), ..rule("etc", KindSet::WRITE, ask()) },
    ]);
    let mut action = file(ActionKind::Open, "/tmp/x");
    assert_eq!(winner(&policy, &action).as_deref(), Some("tmp"));
    action.foreign_mount = true;
    assert_eq!(winner(&policy, &action).as_deref(), Some("etc"));
}

#[test]
fn networks_match_their_addresses_in_every_form() {
    let table = [
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("::ffff:10.0.0.1", "10.0.0.1", true),
        ("0.0.0.0/0", "8.8.8.8", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "8.8.8.8", false),
        ("fd00::/8", "fd12::1", true),
        ("fd00::/8", "fe80::1", false),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("any", "8.8.8.8", true),
        ("unix:*", "8.8.8.8", false),
    ];
    for (pattern, address, expected) in table {
        let policy = Policy::new(vec![Rule { addresses: addresses(&[pattern]), ..rule("net", KindSet::NET, deny()) }]);
        let matched = winner(&policy, &ip(ActionKind::Connect, address, 80)).is_some();
        assert_eq!(matched, expected, "{pattern} {address}");
    }
}

#[test]
fn an_unspecified_address_may_be_any_and_is_not_allowed_as_one() {
    let restricting = Policy::new(vec![Rule {
        addresses: addresses(&["192.168.0.0/16"]),
        ports: ports(&["22"]),
        ..rule("net", KindSet::NET, deny())
    }]);
    assert!(winner(&restricting, &ip(ActionKind::Bind, "0.0.0.0", 22)).is_some());
    assert!(winner(&restricting, &ip(ActionKind::Bind, "::", 22)).is_some());
    assert!(winner(&restricting, &ip(ActionKind::Bind, "0.0.0.0", 23)).is_none());
    let allowing = Policy::new(vec![
        Rule { addresses: addresses(&["127.0.0.0/8"]), ..rule("local", KindSet::NET, RuleVerdict::Allow) },
        rule("rest", KindSet::NET, deny()),
    ]);
    assert_eq!(winner(&allowing, &ip(ActionKind::Bind, "127.0.0.1", 22)).as_deref(), Some("local"));
    assert_eq!(winner(&allowing, &ip(ActionKind::Bind, "0.0.0.0", 22)).as_deref(), Some("rest"));
}

#[test]
fn a_rule_without_address_is_about_ip_only() {
    let policy = Policy::new(vec![rule("net", KindSet::NET, deny())]);
    assert!(winner(&policy, &ip(ActionKind::Connect, "::1", 80)).is_some());
    assert!(winner(&policy, &unix("/run/docker.sock")).is_none());
    let netlink = Address::Other { family: 16, data: Text::default() };
    assert!(winner(&policy, &socket(ActionKind::Bind, netlink.clone())).is_none());
    let any = Policy::new(vec![Rule { addresses: addresses(&["any"]), ..rule("any", KindSet::NET, deny()) }]);
    assert!(winner(&any, &unix("/run/docker.sock")).is_some());
    assert!(winner(&any, &socket(ActionKind::Bind, netlink)).is_some());
}

#[test]
fn binding_without_a_family_is_binding_ipv4() {
    let policy = Policy::new(vec![Rule { ports: ports(&["22"]), ..rule("ssh", KindSet::NET, deny()) }]);
    let without_family = |kind, data: &[u8]| socket(kind, Address::Other { family: 0, data: data.into() });
    let to_port_22: &[u8] = &[0, 22, 0, 0, 0, 0, 0, 0];
    assert!(winner(&policy, &without_family(ActionKind::Bind, to_port_22)).is_some());
    assert!(winner(&policy, &without_family(ActionKind::Bind, &[0, 23, 0, 0, 0, 0])).is_none());
    assert!(winner(&policy, &without_family(ActionKind::Bind, &[0])).is_some());
    assert!(winner(&policy, &without_family(ActionKind::Connect, to_port_22)).is_none());
}

#[test]
fn unix_names_match_by_path_or_abstract_name() {
    let table = [
        ("unix:/run/docker.sock", "/run/docker.sock", true),
        ("unix:/run/docker.sock", "/run/other.sock", false),
        ("unix:/run/docker.sock", "@/run/docker.sock", false),
        ("unix:/run/**", "/run/user/1000/bus", true),
        ("unix:@dbus-*", "@dbus-a/b", true),
        ("unix:@dbus-*", "/dbus-a", false),
        ("unix:*", "", true),
        ("unix:/**", "", false),
        // A name that does not say where it leads may lead to what the rule guards.
        ("unix:/run/docker.sock", "docker.sock", true),
        ("unix:/run/docker.sock", "/run/x/../docker.sock", true),
        ("unix:/run/docker.sock", "/run//docker.sock", true),
    ];
    for (pattern, name, expected) in table {
        let policy = Policy::new(vec![Rule { addresses: addresses(&[pattern]), ..rule("unix", KindSet::NET, deny()) }]);
        assert_eq!(winner(&policy, &unix(name)).is_some(), expected, "{pattern} {name}");
    }
    let allowing = Policy::new(vec![Rule {
        addresses: addresses(&["unix:/run/safe/**"]),
        ..rule("safe", KindSet::NET, RuleVerdict::Allow)
    }]);
    assert!(winner(&allowing, &unix("/run/safe/x")).is_some());
    assert!(winner(&allowing, &unix("/run/safe/../docker.sock")).is_none());
}

#[test]
fn ports_match_singly_and_in_ranges() {
    let set = ports(&["80", "8000-9000", "0"]).expect("ports");
    for (port, expected) in
        [(80, true), (81, false), (7999, false), (8000, true), (9000, true), (9001, false), (0, true)]
    {
        assert_eq!(set.contains(port), expected, "{port}");
    }
    assert_eq!(set.count(), 1003);
}

#[test]
fn the_stricter_of_two_evaluations_holds() {
    let with = |name: &str, outcome: Outcome| Evaluation { rule: Some(name.into()), reason: None, outcome };
    let ask = |name: &str, seconds, danger_allow_on_timeout, risk| {
        let ask = Ask {
            rule: name.into(),
            deadline: Duration::from_secs(seconds),
            danger_allow_on_timeout,
            risk,
            reason: None,
            quorum: None,
            escalation: Vec::new(),
            danger_self_review: false,
            comment: Default::default(),
            second_factor: false,
            grants: Vec::new(),
        };
        with(name, Outcome::Ask(ask))
    };
    let none = || Evaluation { rule: None, reason: None, outcome: Outcome::Allow };
    let allow = || with("allow", Outcome::Allow);
    let deny = || with("deny", Outcome::Deny { errno: 13 });
    assert_eq!(none().stricter(allow()), allow());
    assert_eq!(allow().stricter(none()), allow());
    assert_eq!(deny().stricter(ask("a", 9, false, Risk::Critical)), deny());
    assert_eq!(allow().stricter(deny()), deny());
    assert_eq!(none().stricter(ask("a", 9, true, Risk::Low)), ask("a", 9, true, Risk::Low));
    let both = ask("low", 5, false, Risk::Low).stricter(ask("high", 60, true, Risk::High));
    assert_eq!(both, ask("high", 5, false, Risk::High));
    // Whichever is shown, what either wants with a decision is wanted.
    let demanding = |name: &str, risk| {
        let mut evaluation = ask(name, 5, false, risk);
        if let Outcome::Ask(ask) = &mut evaluation.outcome {
            (ask.comment, ask.second_factor) = (Comment::All, true);
        }
        evaluation
    };
    let low = demanding("low", Risk::Low).stricter(ask("high", 5, false, Risk::High));
    assert_eq!(low, demanding("high", Risk::High));
    assert_eq!(ask("low", 5, false, Risk::Low).stricter(demanding("high", Risk::High)), demanding("high", Risk::High));
}

#[test]
fn the_digest_tells_policies_apart() {
    let first = rule("a", EXEC, deny());
    let second = Rule { paths: paths(&["/x"]), ..rule("b", EXEC, ask()) };
    let digest = Policy::new(vec![first.clone(), second.clone()]).digest();
    assert_eq!(digest.len(), 64);
    assert_eq!(digest, Policy::new(vec![first.clone(), second.clone()]).digest());
    assert_ne!(digest, Policy::new(vec![second.clone(), first.clone()]).digest());
    assert_ne!(digest, Policy::new(vec![first, Rule { paths: paths(&["/y"]), ..second }]).digest());
}

fn compile(rules: Vec<Rule>) -> Tables {
    tables::compile(&Policy::new(rules), &[("coder".into(), 7), ("other".into(), 8)])
}

#[test]
fn shorter_prefixes_pass_their_kinds_on() {
    let open = ActionKind::Open.number().bit();
    let unlink = ActionKind::Unlink.number().bit();
    let tables = compile(vec![
        Rule { paths: paths(&["/etc/**"]), agents: Some(["coder".to_owned()].into()), ..rule("a", open, deny()) },
        Rule { paths: paths(&["/etc/ssh/*", "/etc/x"]), ..rule("b", unlink, ask()) },
        Rule { paths: paths(&["/etc/ssh/keys"]), ..rule("c", open, ask()) },
        Rule { paths: paths(&["/srv/**"]), ..rule("d", KindSet::WRITE, RuleVerdict::Allow) },
    ]);
    let entries = |number| {
        let of_agent = tables.prefixes.iter().filter(move |((agent, _), _)| *agent == number);
        of_agent.map(|((_, prefix), kinds)| (String::from_utf8_lossy(prefix).into_owned(), *kinds)).collect::<Vec<_>>()
    };
    // "/etc/ssh/keys" says nothing new for the agent that "/etc/" and "/etc/ssh/" already cover.
    let both = open.union(unlink);
    assert_eq!(entries(7), [("/etc/".into(), open), ("/etc/ssh/".into(), both), ("/etc/x".into(), both)]);
    assert_eq!(entries(8), [("/etc/ssh/".into(), unlink), ("/etc/ssh/keys".into(), both), ("/etc/x".into(), unlink)]);
    assert_eq!(tables.agents["coder"].kinds, both);
}

#[test]
fn kinds_without_a_path_and_xattr_match_everywhere() {
    let xattr = ActionKind::Xattr.number().bit();
    let tables = compile(vec![
        rule("exec", EXEC, deny()),
        Rule { paths: paths(&["/etc/**"]), ..rule("write", KindSet::WRITE, deny()) },
    ]);
    assert_eq!(tables.prefixes[&(7, Vec::new())], EXEC.union(xattr));
    assert_eq!(tables.prefixes[&(7, b"/etc/".to_vec())], EXEC.union(KindSet::WRITE));
}

#[test]
fn small_port_sets_become_entries_and_large_ones_every_port() {
    let bind = ActionKind::Bind.number();
    let connect = ActionKind::Connect.number();
    let tables = compile(vec![
        Rule { ports: ports(&["22", "8000-9022"]), ..rule("small", bind.bit(), deny()) },
        Rule { ports: ports(&["22", "8000-9023"]), ..rule("large", connect.bit(), deny()) },
        Rule { addresses: addresses(&["unix:/run/x"]), ..rule("unix", connect.bit(), deny()) },
    ]);
    let table = tables.agents["coder"];
    assert_eq!((table.any_port, table.other_families), (connect.bit(), connect.bit()));
    assert_eq!(tables.ports.len(), 2 * 1024);
    assert!(tables.ports.contains(&(7, bind.0, 22)) && tables.ports.contains(&(8, bind.0, 9022)));
}

#[test]
fn prefixes_longer_than_the_kernel_compares_are_cut() {
    let long = format!("/{}", "a".repeat(300));
    let tables = compile(vec![Rule { paths: paths(&[&long]), ..rule("long", EXEC, deny()) }]);
    assert_eq!(tables.prefixes.keys().map(|(_, prefix)| prefix.len()).collect::<Vec<_>>(), [PREFIX_BYTES; 2]);
    assert!(tables.may_match(&exec(&long, &[])));
    assert!(!tables.may_match(&exec("/aaa", &[])));
}

fn any_verdict() -> impl Strategy<Value = RuleVerdict> {
    prop_oneof![Just(RuleVerdict::Allow), Just(deny()), Just(ask())]
}

/// Kinds, and conditions that fit them, as the configuration makes sure of.
fn any_rule() -> impl Strategy<Value = Rule> {
    let component = prop_oneof!["[ab]", "[ab]?[*]", Just("**".to_owned()), "\\{a,b\\}", Just("x".repeat(140))];
    let pattern = prop::collection::vec(component, 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let path_sources = prop::option::of(prop::collection::vec(pattern, 1..3));
    let address = prop::sample::select(vec![
        "any",
        "10.0.0.0/8",
        "127.0.0.1",
        "::/0",
        "::ffff:10.0.0.0/104",
        "unix:*",
        "unix:/a/*",
        "unix:@a*",
    ]);
    let address_sources = prop::option::of(prop::collection::vec(address, 1..3));
    let port_sources = prop::option::of(prop::sample::subsequence(vec!["22", "80-82", "0", "1-3000"], 1..3));
    let agents = prop::option::of(prop::sample::select(vec!["coder", "other"]));
    let users = prop::option::of(0..2u32);
    let args = prop::sample::subsequence(vec!["a*", "b"], 0..2);
    (any::<u32>(), 0..3, any_verdict(), path_sources, address_sources, port_sources, agents, users, args).prop_map(
        |(bits, family, verdict, path_sources, address_sources, port_sources, agent, user, arg_sources)| {
            let kinds = match family {
                0 => KindSet(bits & KindSet::WRITE.union(EXEC).0),
                1 => EXEC,
                _ => KindSet(bits & KindSet::NET.0),
            };
            let net = family == 2;
            let beyond_ip = |sources: &Vec<&str>| sources.iter().any(|s| s.starts_with("unix") || *s == "any");
            let with_port = net && !address_sources.as_ref().is_some_and(beyond_ip);
            Rule {
                agents: agent.map(|agent| [agent.to_owned()].into()),
                users: user.map(|user| [user].into()),
                paths: path_sources.filter(|_| !net).and_then(|sources| paths(&sources)),
                args: if family == 1 { words(&arg_sources) } else { Vec::new() },
                ports: port_sources.filter(|_| with_port).and_then(|sources| ports(&sources)),
                addresses: address_sources.filter(|_| net).and_then(|sources| addresses(&sources)),
                ..rule("any", kinds, verdict)
            }
        },
    )
}

fn any_path() -> impl Strategy<Value = String> {
    let component = prop_oneof!["[abc]{1,2}", Just("x".repeat(140))];
    prop::collection::vec(component, 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn any_address() -> impl Strategy<Value = Address> {
    let ips: Vec<IpAddr> = ["10.1.2.3", "127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:10.0.0.1", "8.8.8.8"]
        .iter()
        .map(|ip| ip.parse().expect("ip"))
        .collect();
    let port = prop::sample::select(vec![0, 1, 22, 80, 83, 2999, 3001]);
    prop_oneof![
        (prop::sample::select(ips), port.clone()).prop_map(|(ip, port)| Address::Ip { ip, port }),
        prop::sample::select(vec!["", "a", "/a/b", "/a/../b", "@a", "@b"]).prop_map(|name| Address::Unix(name.into())),
        (prop::sample::select(vec![0, 16, 40]), port, 0..9usize).prop_map(|(family, port, length)| {
            let data = [&port.to_be_bytes()[..], &[0; 6]].concat();
            Address::Other { family, data: data[..length.min(8)].to_vec().into() }
        }),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let kinds: Vec<ActionKind> = ActionKind::ALL.iter().map(|(kind, _)| *kind).collect();
    let args = prop::collection::vec("[ab]{0,2}", 0..3);
    let agent = prop::sample::select(vec!["coder", "other"]);
    let facts =
        (prop::sample::select(kinds), any_path(), any_path(), any_address(), args, agent, 0..3u32, any::<bool>());
    facts.prop_map(|(kind, path, new_path, address, args, agent, uid, foreign_mount)| {
        let base = match kind {
            ActionKind::Exec => exec(&path, &args.iter().map(String::as_str).collect::<Vec<_>>()),
            ActionKind::Link | ActionKind::Rename => rename(kind, &path, Some(&new_path)),
            ActionKind::Bind | ActionKind::Listen | ActionKind::Connect => socket(kind, address),
            _ => file(kind, &path),
        };
        Action { agent: agent.to_owned(), uid, foreign_mount, ..base }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The one promise of the tables: what a restricting rule matches reaches the daemon.
    #[test]
    fn what_is_restricted_may_match(
        rules in prop::collection::vec(any_rule(), 1..5),
        actions in prop::collection::vec(any_action(), 1..20),
    ) {
        let policy = Policy::new(rules);
        let tables = tables::compile(&policy, &[("coder".into(), 7), ("other".into(), u32::MAX)]);
        for action in actions {
            if policy.evaluate(&action).outcome != Outcome::Allow {
                prop_assert!(tables.may_match(&action), "{:?}", action);
            }
        }
    }
}
