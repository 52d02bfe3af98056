//! A room on a real Matrix server: cards, reactions, typed commands.

use std::{
    process::Stdio,
    sync::{Mutex, OnceLock},
};

use gatekeeper_tests::{Daemon, Synapse, synapse::User, wait_until};

use crate::stage::{self, BASE, Tool, id, records};

/// The server and the people; one for all tests, since it takes long to start.
struct Place {
    synapse: Synapse,
    bot: User,
    first: User,
    second: User,
    stranger: User,
    room: String,
}

static PLACE: OnceLock<Mutex<Place>> = OnceLock::new();

extern "C" fn end() {
    if let Some(place) = PLACE.get() {
        // A failed test poisons it; the server ends all the same.
        place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).synapse.stop();
    }
}

fn place() -> std::sync::MutexGuard<'static, Place> {
    let place = PLACE.get_or_init(|| {
        let synapse = Synapse::start();
        // SAFETY: the function takes nothing, returns nothing, and does not unwind.
        unsafe { libc::atexit(end) };
        let [bot, first, second, stranger] = ["bot", "first", "second", "stranger"].map(|name| synapse.user(name));
        let room = first.room(&[&bot, &second, &stranger]);
        Mutex::new(Place { synapse, bot, first, second, stranger, room })
    });
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Place {
    /// A daemon that asks in the room. `rule` goes into the rule that asks.
    fn daemon(&self, rule: &str) -> Daemon {
        stage::set();
        let token = self.bot.token_file(std::path::Path::new(BASE));
        Daemon::start(&format!(
            r#"
[[agent]]
name = "worker"

[[reviewer]]
name = "first"
groups = ["ops"]
matrix = "{first}"
[[reviewer]]
name = "second"
groups = ["ops"]
matrix = "{second}"
[[reviewer]]
name = "operator"
groups = ["ops"]
user = 0
matrix = "@operator:localhost"

[[channel]]
name = "room"
type = "matrix"
homeserver = "{url}"
room = "{room}"
token = "{token}"
{rule}
"#,
            rule = stage::rule(rule),
            first = self.first.id,
            second = self.second.id,
            url = Synapse::url(),
            room = self.room,
            token = token.display(),
        ))
    }
}

#[test]
fn a_reaction_lets_the_same_process_go_on() {
    let place = place();
    let mut daemon = place.daemon("");
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    let card = place.first.wait_for_card(&place.room, id(&request));
    let reaction = place.first.react(&place.room, &card, "✅");
    let ended = daemon.wait_for_state(&request, "released");
    assert_eq!((ended["task"]["pid"].as_u64(), tool.code()), (Some(u64::from(tool.pid())), Some(0)));
    // The card says so only then, and who it was.
    place.first.wait_for_text(&place.room, id(&request), "approved by first through room");
    // The record names the person and the message.
    let decision = records(&daemon, "decision").pop().unwrap();
    let by = &decision["decision"]["by"];
    assert_eq!((&by["name"], &by["account"]), (&"first".into(), &place.first.id.as_str().into()), "{decision}");
    assert_eq!(
        (&by["evidence"]["message"], &by["evidence"]["event"]),
        (&card.as_str().into(), &reaction.as_str().into())
    );
    assert_eq!(by["evidence"]["card"], records(&daemon, "card").pop().unwrap()["digest"]);
    daemon.detach();
}

#[test]
fn a_typed_denial_needs_a_reason_and_fails_the_action() {
    let place = place();
    let mut daemon = place.daemon("");
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    place.first.wait_for_card(&place.room, id(&request));
    place.first.say(&place.room, &format!("deny {}", id(&request)));
    place.first.wait_for_note(&place.room, "a denial needs a reason");
    place.first.say(&place.room, &format!("!deny {} not at night", id(&request).to_lowercase()));
    let ended = daemon.wait_for_state(&request, "denied");
    assert_eq!(ended["decision"]["reason"], "not at night");
    assert_eq!(tool.code(), Some(126));
    place.first.wait_for_text(&place.room, id(&request), "denied by first through room");
    place.first.wait_for_text(&place.room, id(&request), "reason: not at night");
    // Too late: told, and nothing changes.
    let card = place.first.wait_for_card(&place.room, id(&request));
    place.second.react(&place.room, &card, "✅");
    place.second.wait_for_note(&place.room, &format!("{} was decided already: denied by first", id(&request)));
    daemon.detach();
}

#[test]
fn who_is_no_reviewer_decides_nothing() {
    let place = place();
    let mut daemon = place.daemon("");
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    let card = place.first.wait_for_card(&place.room, id(&request));
    place.stranger.react(&place.room, &card, "✅");
    place.stranger.wait_for_note(&place.room, "belongs to no reviewer");
    place.stranger.say(&place.room, &format!("approve {}", id(&request)));
    // (Of this request: a server may repeat an answer that it gave the daemon before, with what others did then.)
    let refused = || records(&daemon, "act_refused").into_iter().filter(|record| record["id"] == id(&request)).count();
    wait_until("both are on record", || (refused() == 2).then_some(()));
    assert_eq!(daemon.show(id(&request))["state"], "pending");
    // The operator started this agent, and does not decide about it, not even here.
    let output = daemon.command(&["approve", id(&request)]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("started this agent"), "{said}");
    // The process ends: so does its card.
    tool.0.kill().unwrap();
    daemon.wait_for_state(&request, "withdrawn");
    place.first.wait_for_text(&place.room, id(&request), "withdrawn: the process ended first");
    daemon.detach();
}

#[test]
fn what_was_decided_while_no_daemon_ran_counts() {
    let place = place();
    let mut daemon = place.daemon("");
    let mut tools = [Tool::start(&daemon), Tool::start(&daemon)];
    let requests = [0, 1].map(|at: usize| daemon.request_of(tools[at].pid()));
    let cards = [0, 1].map(|at: usize| place.first.wait_for_card(&place.room, id(&requests[at])));
    daemon.kill();
    place.first.react(&place.room, &cards[0], "✅");
    // The other one's process ends meanwhile: nobody but the next daemon can say so.
    tools[1].0.kill().unwrap();
    tools[1].0.wait().unwrap();
    daemon.begin();
    daemon.wait_for_state(&requests[0], "released");
    assert_eq!(tools[0].code(), Some(0));
    place.first.wait_for_text(&place.room, id(&requests[0]), "approved by first through room");
    place.first.wait_for_text(&place.room, id(&requests[1]), "ended while gatekeeper did not run");
    daemon.detach();
}

#[test]
fn a_stopped_agent_ends_with_all_its_processes() {
    let place = place();
    let mut daemon = place.daemon("");
    let mut command = daemon.command(&["run", "--agent", "worker", "--", "sh", "-c"]);
    command.arg(format!("{BASE}/tools/true; sleep 1000"));
    let mut agent = Tool(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let request = wait_until("the tool waits", || daemon.pending().pop());
    let card = place.first.wait_for_card(&place.room, id(&request));
    place.first.react(&place.room, &card, "🛑");
    daemon.wait_for_state(&request, "denied");
    assert_eq!(agent.code(), None, "killed by a signal");
    assert_eq!(records(&daemon, "agent_stopped").len(), 1);
    daemon.detach();
}

#[test]
fn a_token_that_is_worthless_is_told_and_decides_nothing() {
    let mut place = place();
    let bot = place.synapse.user("shortlived");
    let lasting = std::mem::replace(&mut place.bot, bot);
    let mut daemon = place.daemon("");
    wait_until("it cannot come into the room", || daemon.status()["channels"][0]["problem"].is_string().then_some(()));
    let problem = daemon.status()["channels"][0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("the bot may not use the room"), "{problem}");
    daemon.detach();
    place.bot.log_out();
    let mut daemon = place.daemon("");
    let problem =
        wait_until("the token is told", || daemon.status()["channels"][0]["problem"].as_str().map(str::to_owned));
    assert!(problem.contains("does not take the access token, M_UNKNOWN_TOKEN"), "{problem}");
    assert!(!daemon.messages().contains(&place.bot.token), "a token is in the daemon's messages");
    daemon.detach();
    place.bot = lasting;
}
