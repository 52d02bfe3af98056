//! What must hold for every act, whatever it is: one function for each promise.

use std::{fs, os::unix::fs::MetadataExt as _};

use gatekeeper_tests::{Agent, Lease, daemon, wait_until};
use serde_json::Value;

use crate::place::{Place, Zone, config};

/// An act, and how to see that it happened.
pub(crate) struct Act {
    /// What requests call it.
    pub(crate) kind: &'static str,
    /// What must be there first, besides what every place has.
    pub(crate) prepare: fn(&Place, &mut Agent),
    /// The words for the probe.
    pub(crate) words: fn(&Place) -> Vec<String>,
    /// Whether it has happened. None: nothing shows but the outcome.
    pub(crate) happened: Option<fn(&Place, &Agent) -> bool>,
    /// Whether the kernel side itself can tell that no rule is about it.
    pub(crate) told_by_kernel: bool,
    /// It has a name in the zone and one outside, so a rule that allows the zone does not cover it.
    pub(crate) crosses: bool,
}

/// Dropped in this order: the daemon's lease looks for what is left.
struct Scene {
    agent: Agent,
    place: Place,
    daemon: Lease,
}

impl Act {
    fn scene(&self, zone: Zone) -> Scene {
        let daemon = daemon(&config());
        let place = Place::new(zone);
        let mut agent = Agent::start(&daemon, "tester");
        (self.prepare)(&place, &mut agent);
        Scene { agent, place, daemon }
    }

    fn begin(&self, place: &Place, agent: &mut Agent) {
        let words = (self.words)(place);
        agent.begin(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn act(&self, place: &Place, agent: &mut Agent) -> String {
        self.begin(place, agent);
        agent.finish()
    }

    fn assert_happened(&self, expected: bool, place: &Place, agent: &Agent) {
        if let Some(happened) = self.happened {
            assert_eq!(happened(place, agent), expected, "whether the act happened");
        }
    }

    /// The request of the act, checked to be about this act of this process.
    fn request(&self, scene: &mut Scene) -> Value {
        let request = scene.daemon.request_of(scene.agent.pid());
        assert_eq!(request["action"]["kind"], self.kind, "{request}");
        assert_eq!(request["action"]["agent"], "tester", "{request}");
        scene.agent.wait_until_stopped();
        assert!(!scene.agent.has_finished(), "the act ended without a decision");
        self.assert_happened(false, &scene.place, &scene.agent);
        request
    }
}

pub(crate) fn allow_rule(act: &Act) {
    let mut scene = act.scene(Zone::Allow);
    if act.crosses {
        act.begin(&scene.place, &mut scene.agent);
        let request = act.request(&mut scene);
        scene.daemon.deny(&request);
        assert_eq!(scene.agent.finish(), "EPERM");
        return;
    }
    assert_eq!(act.act(&scene.place, &mut scene.agent), "ok");
    act.assert_happened(true, &scene.place, &scene.agent);
    assert!(scene.daemon.pending().is_empty());
}

pub(crate) fn deny_rule(act: &Act) {
    let mut scene = act.scene(Zone::Deny);
    assert_eq!(act.act(&scene.place, &mut scene.agent), "EROFS");
    act.assert_happened(false, &scene.place, &scene.agent);
}

pub(crate) fn approved(act: &Act) {
    let mut scene = act.scene(Zone::Ask);
    act.begin(&scene.place, &mut scene.agent);
    let request = act.request(&mut scene);
    let decided = scene.daemon.approve(&request);
    assert_eq!(scene.agent.finish(), "ok", "{decided}");
    act.assert_happened(true, &scene.place, &scene.agent);
    let ended = scene.daemon.wait_for_state(&request, "released");
    assert_eq!(ended["task"]["pid"], scene.agent.pid());
    assert!(scene.daemon.pending().is_empty(), "one act, one request");
}

pub(crate) fn denied(act: &Act) {
    let mut scene = act.scene(Zone::Ask);
    act.begin(&scene.place, &mut scene.agent);
    let request = act.request(&mut scene);
    scene.daemon.deny(&request);
    assert_eq!(scene.agent.finish(), "EPERM");
    act.assert_happened(false, &scene.place, &scene.agent);
    scene.daemon.wait_for_state(&request, "denied");
}

pub(crate) fn expired(act: &Act) {
    let mut scene = act.scene(Zone::Expire);
    act.begin(&scene.place, &mut scene.agent);
    let pid = scene.agent.pid();
    let request = scene.daemon.request_of(pid);
    assert_eq!(scene.agent.finish(), "EPERM");
    act.assert_happened(false, &scene.place, &scene.agent);
    scene.daemon.wait_for_state(&request, "timed_out");
}

pub(crate) fn withdrawn(act: &Act) {
    let mut scene = act.scene(Zone::Ask);
    act.begin(&scene.place, &mut scene.agent);
    let request = act.request(&mut scene);
    scene.agent.kill();
    scene.daemon.wait_for_state(&request, "withdrawn");
    wait_until("nothing is left in the hold map", || (scene.daemon.open_holds() == 0).then_some(()));
    act.assert_happened(false, &scene.place, &scene.agent);
}

pub(crate) fn outside(act: &Act) {
    let mut daemon = daemon(&config());
    let place = Place::new(Zone::Deny);
    let mut twin = Agent::outside();
    (act.prepare)(&place, &mut twin);
    let before = daemon.counter("holds");
    assert_eq!(act.act(&place, &mut twin), "ok");
    act.assert_happened(true, &place, &twin);
    assert_eq!(daemon.counter("holds"), before, "an act outside of agents was held");
}

pub(crate) fn unmatched(act: &Act) {
    let mut scene = act.scene(Zone::Free);
    let (holds, unmatched) = (scene.daemon.counter("holds"), scene.daemon.counter("unmatched"));
    assert_eq!(act.act(&scene.place, &mut scene.agent), "ok");
    act.assert_happened(true, &scene.place, &scene.agent);
    if act.told_by_kernel {
        assert_eq!(scene.daemon.counter("holds"), holds, "an act that no rule is about was held");
        assert!(scene.daemon.counter("unmatched") > unmatched, "the act was not seen at all");
    }
}

/// The program that a process runs.
pub(crate) fn runs(agent: &Agent, path: &str) -> bool {
    let inode = |path: &str| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    inode(&format!("/proc/{}/exe", agent.pid())) == inode(path)
}
