//! Pictures of cards for the documentation, drawn from what each channel really sends to its server.
//!
//! They show what is in a card and in which order; how a client draws that is its own affair. `UPDATE_EXPECT=1` writes
//! them anew.

mod svg;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use self::svg::{Part, Span, Style, draw};
use super::{
    Channel, Verb,
    card::{Card, LABEL_COLUMNS, Line, detail},
    fake_http::{Call, Reply, Server},
    matrix::{self, Matrix},
    secret::Secret,
    slack::{self, Slack},
    slack_fake::{Fake, Times, state},
    stand_in,
    teams::{self, Teams},
    teams_fake::{APP_ID, CONVERSATION, SECRET, TENANT, TeamsFake},
};
use crate::{
    action::Target,
    control::samples,
    request::{Decider, Decision, Effect, Request, State},
    text::Text,
};

/// The requests of the pictures: one that waits, the same when it was decided, and one that is too long for a card.
fn requests() -> [(&'static str, Request); 3] {
    let mut pending = samples::request(1);
    pending.task.comm = Text::from("bash");
    let words = |words: &[&str]| words.iter().map(|word| Text::from(*word)).collect();
    let Target::Program { args, .. } = &mut pending.action.target else { unreachable!("the sample is an exec") };
    *args = words(&["git", "push", "--force", "origin", "main"]);
    pending.context.args = words(&["bash", "-c", "git push --force origin main"]);
    let mut decided = pending.clone();
    decided.state = State::Released;
    decided.decision = Some(Decision {
        effect: Effect::Allow,
        by: Decider::Reviewer {
            name: "first".to_owned(),
            channel: "chat".to_owned(),
            account: "U1".to_owned(),
            evidence: None,
        },
        reason: Some("the branch is mine".to_owned()),
        grant: None,
        at_ms: pending.held_at_ms + 61_000,
    });
    let mut long = pending.clone();
    let Target::Program { args, .. } = &mut long.action.target else { unreachable!("the sample is an exec") };
    args.push(Text::from("lorem ipsum dolor sit amet ".repeat(1_500).as_str()));
    [("pending", pending), ("decided", decided), ("shortened", long)]
}

fn card(request: &Request) -> Card {
    Card::new(request, "web-1", &[Verb::Approve, Verb::Deny, Verb::DenyAndStop, Verb::Extend])
}

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/channels/pictures")
}

/// Compares a picture with the one of the documentation, or writes that anew.
fn expect(channel: &str, name: &str, drawn: &str) {
    let path = place().join(format!("{channel}-{name}.svg"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, drawn).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == drawn, "{} is another picture; UPDATE_EXPECT=1 writes it anew", path.display());
}

/// Several lines where a text has several.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn slack_parts(blocks: &[Value]) -> Vec<Part> {
    let text = |value: &Value| value["text"].as_str().unwrap_or_default().to_owned();
    let part = |block: &Value| match block["type"].as_str().unwrap() {
        "header" => Part::Text(vec![(text(&block["text"]), Style::Bold)]),
        "rich_text" => {
            let inner = &block["elements"][0];
            let shown = text(&inner["elements"][0]);
            if inner["type"] == "rich_text_preformatted" {
                Part::Boxed(lines(&shown))
            } else {
                Part::Text(vec![(shown, Style::Warning)])
            }
        }
        "actions" => {
            let buttons = block["elements"].as_array().unwrap().iter();
            Part::Buttons(buttons.map(|button| (text(&button["text"]), button["style"] == "primary")).collect())
        }
        "context" => Part::Text(vec![(text(&block["elements"][0]), Style::Faint)]),
        other => panic!("a block {other} has no picture"),
    };
    blocks.iter().map(part).collect()
}

#[tokio::test]
async fn slack_cards_are_as_in_the_pictures() {
    for (name, request) in requests() {
        let fake = Fake::start(Times::default()).await.unwrap();
        let slack = Slack::new(slack::Settings {
            api: fake.api(),
            app_token: Secret::new(state::APP_TOKEN),
            bot_token: Secret::new(state::BOT_TOKEN),
            team: state::TEAM.to_owned(),
            conversation: "C1".to_owned(),
            times: slack::Times::default(),
        });
        slack.unwrap().post(&card(&request), "once").await.unwrap();
        let blocks = fake.look(|state| state.cards()[0].blocks.clone());
        expect("slack", name, &draw("Slack: gatekeeper (app) in #approvals", &slack_parts(blocks.as_array().unwrap())));
    }
}

fn teams_parts(content: &Value) -> Vec<Part> {
    let run = |run: &Value| -> Span {
        let style = match (run["color"].as_str(), run["weight"].as_str()) {
            (Some("Attention" | "attention" | "Warning" | "warning"), _) => Style::Warning,
            (_, Some("Bolder" | "bolder")) => Style::Bold,
            _ if run["isSubtle"] == true => Style::Faint,
            _ => Style::Plain,
        };
        (run["text"].as_str().unwrap().to_owned(), style)
    };
    let element = |element: &Value| match element["type"].as_str().unwrap() {
        "RichTextBlock" => Part::Text(element["inlines"].as_array().unwrap().iter().map(run).collect()),
        "Input.Text" => Part::Input(element["label"].as_str().unwrap().to_owned()),
        other => panic!("an element {other} has no picture"),
    };
    let mut parts: Vec<_> = content["body"].as_array().unwrap().iter().map(element).collect();
    if let Some(actions) = content["actions"].as_array() {
        let button = |action: &Value| (action["title"].as_str().unwrap().to_owned(), action["style"] == "positive");
        parts.push(Part::Buttons(actions.iter().map(button).collect()));
    }
    parts
}

#[tokio::test]
async fn teams_cards_are_as_in_the_pictures() {
    for (name, request) in requests() {
        let fake = TeamsFake::start(stand_in::START_MS / 1_000);
        let settings = teams::Settings {
            app_id: APP_ID.to_owned(),
            tenant: TENANT.to_owned(),
            secret: Secret::new(SECRET),
            conversation: CONVERSATION.to_owned(),
            service_url: fake.service_url(),
            listen: "127.0.0.1:0".parse().unwrap(),
            token_url: Some(fake.token_url()),
            openid_url: Some(fake.openid_url()),
        };
        Teams::new(settings, stand_in::clock()).unwrap().post(&card(&request), "once").await.unwrap();
        let (_, _, message) = &fake.messages()[0];
        let content = &message["attachments"][0]["content"];
        expect("teams", name, &draw("Microsoft Teams: gatekeeper in General", &teams_parts(content)));
    }
}

/// What a client shows of a card's HTML.
fn matrix_parts(html: &str, reactions: Vec<String>) -> Vec<Part> {
    let mut parts = Vec::new();
    for line in html.split("<br>") {
        let mut spans = Vec::new();
        let mut style = Style::Faint;
        let mut rest = line;
        while !rest.is_empty() {
            let (text, after) = rest.split_once('<').unwrap_or((rest, ""));
            let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
            if !text.is_empty() {
                spans.push((text, style));
            }
            let (element, after) = after.split_once('>').unwrap_or_default();
            style = match element {
                "b" => Style::Bold,
                "code" => Style::Plain,
                _ => Style::Faint,
            };
            rest = after;
        }
        parts.push(Part::Text(spans));
    }
    if !reactions.is_empty() {
        parts.push(Part::Buttons(reactions.into_iter().map(|key| (format!("{key} 1"), false)).collect()));
    }
    parts
}

#[tokio::test]
async fn matrix_cards_are_as_in_the_pictures() {
    for (name, request) in requests() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&sent);
        let server = Server::start(move |Call { path, body, .. }| {
            let mut sent = taken.lock().unwrap();
            sent.push((path, serde_json::from_str::<Value>(&body).unwrap()));
            Reply::new(200, json!({ "event_id": format!("${}", sent.len()) }).to_string())
        });
        let settings = matrix::Settings {
            homeserver: format!("http://{}", server.address()),
            room: "!room:example.org".to_owned(),
            token: Secret::new("token"),
        };
        let (matrix, card) = (Matrix::new(settings).unwrap(), card(&request));
        let message = matrix.post(&card, "once").await.unwrap();
        matrix.offer(&message, &card).await.unwrap();
        let sent = sent.lock().unwrap().clone();
        let reactions = sent.iter().filter(|(path, _)| path.contains("/m.reaction/"));
        let reactions = reactions.map(|(_, body)| body["m.relates_to"]["key"].as_str().unwrap().to_owned()).collect();
        let parts = matrix_parts(sent[0].1["formatted_body"].as_str().unwrap(), reactions);
        expect("matrix", name, &draw("Matrix: gatekeeper in the room approvals", &parts));
    }
}

#[test]
fn the_terminal_shows_what_is_in_the_pictures() {
    // The third would be a page of its own: nothing is shortened here.
    for (name, request) in requests().into_iter().take(2) {
        let shown = detail(&request, request.held_at_ms);
        let shown = shown.into_iter().map(|Line { label, text }| format!("{label:<LABEL_COLUMNS$}{text}"));
        let command = format!("$ gatekeeper show {}", request.id);
        let parts = [Part::Boxed(std::iter::once(command).chain(shown).collect())];
        expect("terminal", name, &draw("Terminal", &parts));
    }
}

#[test]
fn each_picture_is_in_the_documentation() {
    let docs = place().join("../..");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    let pages: String =
        ["channels/slack.md", "channels/teams.md", "channels/matrix.md"].iter().map(|page| read(page)).collect();
    let guide = read("REVIEWERS.md");
    let pictures: Vec<_> = std::fs::read_dir(place()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(pictures.len(), 11, "{pictures:?}");
    for picture in pictures {
        let link = format!("pictures/{})", picture.to_str().unwrap());
        assert!(pages.contains(&link) || guide.contains(&link), "nothing shows {picture:?}");
    }
}
