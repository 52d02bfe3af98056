//! A channel of a team in Microsoft Teams: a strict fake of Microsoft's servers, which calls the daemon as they do.

use std::net::{SocketAddr, TcpListener, TcpStream};

use gatekeeper_tests::{
    Daemon,
    teams_fake::{APP_ID, CONVERSATION, Person, SECRET, TENANT, TeamsFake, TokenSpec},
    wait_until,
};

use crate::stage::{self, Tool, id, now_seconds, records};

fn daemon(fake: &TeamsFake, person: &Person, listen: SocketAddr) -> Daemon {
    stage::set();
    let secret = format!("{}/teams-secret", stage::BASE);
    stage::secret(&secret, SECRET);
    Daemon::start(&format!(
        r#"
[[agent]]
name = "worker"

[[reviewer]]
name = "first"
teams = "{account}"

[[channel]]
name = "chat"
type = "teams"
app_id = "{APP_ID}"
tenant = "{TENANT}"
secret = "{secret}"
conversation = "{CONVERSATION}"
service_url = "{service}"
listen = "{listen}"
token_url = "{token}"
openid_url = "{openid}"

{rule}
"#,
        account = person.account(),
        service = fake.service_url(),
        token = fake.token_url(),
        openid = fake.openid_url(),
        rule = stage::rule(""),
    ))
}

#[test]
fn a_click_in_teams_lets_the_same_process_go_on() {
    let fake = TeamsFake::start(now_seconds());
    let (person, stranger) = (Person::member(1), Person::member(2));
    fake.welcome(&person);
    fake.welcome(&stranger);
    let listen = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let mut daemon = daemon(&fake, &person, listen);
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    let card = |text: &str| {
        wait_until(&format!("Teams shows {text:?}"), || {
            let shows = |(conversation, _, shown): &(String, String, serde_json::Value)| {
                let shown = shown.to_string();
                conversation == CONVERSATION && shown.contains(id(&request)) && shown.contains(text)
            };
            fake.messages().into_iter().find(shows)
        })
    };
    let (_, message, _) = card("approve");
    wait_until("the daemon listens", || TcpStream::connect(listen).ok());
    let click = |person: &Person, spec: &TokenSpec| {
        fake.call(listen, &fake.click(person, &message, "approve", "").unwrap(), spec)
    };
    // Somebody who is no reviewer, and a call that is not Microsoft's.
    assert!(click(&stranger, &TokenSpec::default()).body.contains("belongs to no reviewer"));
    let forged = TokenSpec { key: ("key-0".to_owned(), 1), ..TokenSpec::default() };
    assert_eq!(click(&person, &forged).status, 401);
    assert_eq!(daemon.show(id(&request))["state"], "pending");
    assert_eq!(click(&person, &TokenSpec::default()).status, 200);
    let ended = daemon.wait_for_state(&request, "released");
    assert_eq!((ended["task"]["pid"].as_u64(), tool.code()), (Some(u64::from(tool.pid())), Some(0)));
    let decision = records(&daemon, "decision").pop().unwrap();
    let by = &decision["decision"]["by"];
    assert_eq!((&by["name"], &by["account"]), (&"first".into(), &person.account().into()), "{decision}");
    assert_eq!(by["evidence"]["message"], format!("{CONVERSATION}/{message}"), "{decision}");
    // The card shows the end, in the same message.
    assert_eq!(card("approved by first through chat").1, message);
    assert!(fake.faults().is_empty(), "{:?}", fake.faults());
    daemon.detach();
}
