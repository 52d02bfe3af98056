//! The bot against a strict fake of Teams, Entra and the Bot Framework.

use serde_json::Value;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    channel::{
        Act, Standing, Verb,
        card::LABEL_COLUMNS,
        fake_http::Reply,
        stand_in::{self, START_MS, StandIn, StoppedClock, beside, card, card_with, ended},
        teams_fake::{APP_ID, CONVERSATION, Person, SECRET, TENANT, TeamsFake, TokenSpec, published},
    },
    request::RequestId,
};

fn settings(fake: &TeamsFake) -> Settings {
    Settings {
        app_id: APP_ID.to_owned(),
        tenant: TENANT.to_owned(),
        secret: Secret::new(SECRET),
        conversation: CONVERSATION.to_owned(),
        service_url: fake.service_url(),
        listen: "127.0.0.1:0".parse().unwrap(),
        token_url: Some(fake.token_url()),
        openid_url: Some(fake.openid_url()),
    }
}

fn teams() -> (Teams, TeamsFake, Arc<StoppedClock>) {
    let fake = TeamsFake::start(START_MS / 1_000);
    let clock = stand_in::clock();
    (Teams::new(settings(&fake), clock.clone()).unwrap(), fake, clock)
}

/// The id of a message within its conversation.
fn id_of(message: &MessageId) -> String {
    parts(message).unwrap().1.to_owned()
}

/// All text of a message's card.
fn text_of(shown: &Value) -> String {
    let body = shown["attachments"][0]["content"]["body"].as_array().unwrap();
    let inlines = body.iter().filter_map(|element| element["inlines"].as_array());
    let lines = inlines.map(|inlines| inlines.iter().map(|run| run["text"].as_str().unwrap()).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

fn verbs_of(shown: &Value) -> Vec<String> {
    let actions = shown["attachments"][0]["content"]["actions"].as_array().cloned().unwrap_or_default();
    actions.iter().map(|action| action["verb"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_post_is_made_once_in_a_life() {
    let (teams, fake, clock) = teams();
    let message = teams.post(&card(1), "1/0").await.unwrap();
    assert_eq!(teams.post(&card(1), "1/0").await.unwrap(), message);
    // Both at once, and no answer to the first try.
    fake.answer_next(Reply::new(504, ""));
    let shown = card(2);
    let (one, other) = tokio::join!(teams.post(&shown, "2/0"), teams.post(&shown, "2/0"));
    assert!(matches!(one, Err(Failure::Outage(_))), "{one:?}");
    assert_eq!(teams.post(&shown, "2/0").await.unwrap(), other.unwrap());
    assert_eq!(fake.messages().len(), 2);
    let (conversation, id, content) = &fake.messages()[0];
    assert_eq!((conversation.as_str(), id), (CONVERSATION, &id_of(&message)));
    let text = text_of(content);
    assert!(text.contains(&card(1).headline) && text.contains(&card(1).status[0]), "{text}");
    assert!(text.contains(&format!("{:<LABEL_COLUMNS$}{}", "called as", "git")), "{text}");
    assert_eq!(verbs_of(content), ["approve", "deny", "escalate"]);
    // After a restart the caller's record has to do: a second card, by the same name.
    let restarted = Teams::new(settings(&fake), clock).unwrap();
    let again = restarted.post(&card(1), "1/0").await.unwrap();
    assert_ne!(again, message);
    let messages = fake.messages();
    let name = |at: usize| messages[at].2["attachments"][0]["name"].clone();
    assert_eq!(name(0), name(2));
    assert_ne!(name(0), name(1));
    assert_eq!(fake.faults(), [""; 0]);
}

#[tokio::test]
async fn a_card_ends_without_buttons_and_notes_go_below_it() {
    let (teams, fake, _) = teams();
    let message = teams.post(&card(1), "1/0").await.unwrap();
    teams.edit(&message, &ended(1)).await.unwrap();
    teams.edit(&message, &ended(1)).await.unwrap();
    let shown = &fake.messages()[0].2;
    assert!(text_of(shown).contains(&ended(1).status[0]));
    assert_eq!(verbs_of(shown), [""; 0]);
    assert!(!shown.to_string().contains("Input.Text"));
    let lines = vec!["first".to_owned(), String::new(), "{{\"\\".repeat(20_000)];
    teams.add(&message, &lines, "1/n").await.unwrap();
    teams.add(&message, &lines, "1/n").await.unwrap();
    assert_eq!(fake.faults(), [""; 0]);
    let messages = fake.messages();
    let thread = format!("{CONVERSATION};messageid={}", id_of(&message));
    assert!(messages[1..].iter().all(|(conversation, ..)| *conversation == thread));
    let text: Vec<String> = messages[1..].iter().map(|(_, _, shown)| text_of(shown)).collect();
    let whole = text.join("").replace('\n', "").replace("{\\x7b", "{{");
    assert_eq!(whole.replacen("first ", "first", 1), lines.concat());
    let gone = MessageId(format!("{CONVERSATION}/1"));
    assert!(matches!(teams.edit(&gone, &ended(1)).await, Err(Failure::Refused(_))));
    assert!(matches!(teams.edit(&MessageId("1".to_owned()), &ended(1)).await, Err(Failure::Refused(_))));
}

#[tokio::test]
async fn a_card_that_had_to_be_shortened_says_so_and_has_no_button_to_approve() {
    let (teams, fake, _) = teams();
    let many = vec!["x"; 20_000];
    let long = [
        card_with(&["x".repeat(1 << 20).as_str()]),
        card_with(&["\"\\\u{202e}{{".repeat(1 << 17).as_str()]),
        card_with(&many),
    ];
    for (number, long) in long.iter().enumerate() {
        teams.post(long, &number.to_string()).await.unwrap();
    }
    assert_eq!(fake.faults(), [""; 0]);
    for (_, _, shown) in fake.messages() {
        let text = text_of(&shown);
        assert!(text.contains("This card is shortened."), "{text}");
        // What is long takes the place of nothing else.
        assert!(text.contains("git-push, risk high") && text.contains("00112233445566778899aabbccddeeff"), "{text}");
        assert!(text.contains("To approve it, mention this bot and write: approve "), "{text}");
        assert_eq!(verbs_of(&shown), ["deny", "stop", "escalate", "extend"]);
    }
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    let (teams, fake, _) = teams();
    fake.answer_next(Reply::new(429, "").with("Retry-After", "3"));
    assert_eq!(teams.post(&card(1), "1").await, Err(Failure::Limited(Duration::from_secs(3))));
    for status in [412, 500, 502, 503, 504, 0] {
        fake.answer_next(Reply::new(status, ""));
        let failure = teams.post(&card(1), "1").await;
        assert!(matches!(failure, Err(Failure::Outage(_))), "{status}: {failure:?}");
    }
    for status in [400, 413] {
        fake.answer_next(Reply::new(status, "{\"error\":{\"code\":\"Bad <b>Syntax\"}}"));
        let Err(Failure::Refused(text)) = teams.post(&card(1), "1").await else { panic!("{status} passes") };
        assert!(text.ends_with("BadbSyntax"), "{text}");
    }
    fake.answer_next(Reply::new(403, "{\"error\":{\"code\":\"BotNotInConversationRoster\"}}"));
    let Err(Failure::Fatal(text)) = teams.post(&card(1), "1").await else { panic!("not fatal") };
    assert!(text.contains("BotNotInConversationRoster") && text.contains("add the app to the team"), "{text}");
    let elsewhere = Settings { conversation: "19:other@thread.tacv2".to_owned(), ..settings(&fake) };
    let elsewhere = Teams::new(elsewhere, stand_in::clock()).unwrap();
    assert!(matches!(elsewhere.post(&card(1), "1").await, Err(Failure::Fatal(_))));
    assert!(fake.messages().is_empty());
    drop(fake);
    let failure = teams.post(&card(1), "1").await;
    assert!(matches!(failure, Err(Failure::Outage(_))), "{failure:?}");
}

#[tokio::test]
async fn tokens_are_kept_until_shortly_before_their_end() {
    let (teams, fake, clock) = teams();
    teams.post(&card(1), "1").await.unwrap();
    clock.advance(Duration::from_secs(3_200));
    teams.post(&card(2), "2").await.unwrap();
    assert_eq!(fake.counts().0, 1);
    clock.advance(Duration::from_secs(200));
    teams.post(&card(3), "3").await.unwrap();
    assert_eq!(fake.counts().0, 2);
    // Ended early, on the server.
    fake.end_tokens();
    teams.post(&card(4), "4").await.unwrap();
    assert_eq!((fake.counts().0, fake.messages().len()), (3, 4));
}

#[tokio::test]
async fn a_revoked_secret_is_fatal_and_says_what_to_do() {
    let (teams, fake, _) = teams();
    fake.revoke_secret();
    let (_daemon, inbox) = StandIn::start(&[], &[]);
    for failure in [teams.post(&card(1), "1").await.unwrap_err(), teams.listen(inbox, None).await] {
        let Failure::Fatal(text) = failure else { panic!("not fatal: {failure:?}") };
        assert!(text.contains("invalid_client AADSTS7000215") && text.contains("make a new one"), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn wrong_settings_say_which_they_are() {
    let fake = TeamsFake::start(0);
    let error = |settings| Teams::new(settings, stand_in::clock()).unwrap_err().to_string();
    assert!(error(Settings { app_id: "1".to_owned(), ..settings(&fake) }).starts_with("`app_id`"));
    assert!(error(Settings { tenant: "x/../y".to_owned(), ..settings(&fake) }).starts_with("`tenant`"));
    assert!(error(Settings { conversation: "a;messageid=1".to_owned(), ..settings(&fake) }).contains("conversation"));
    assert!(
        error(Settings { service_url: "http://example.org".to_owned(), ..settings(&fake) }).contains("service_url")
    );
}

/// A bot that is called.
struct Inbound {
    daemon: StandIn,
    teams: Arc<Teams>,
    fake: Arc<TeamsFake>,
    clock: Arc<StoppedClock>,
    /// The card of request 1.
    message: MessageId,
    reviewer: Person,
    listening: JoinHandle<Failure>,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Inbound {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Teams)) -> Self {
        let (mut teams, fake, clock) = teams();
        change(&mut teams);
        let reviewer = Person::member(1);
        fake.welcome(&reviewer);
        let message = teams.post(&card(1), "1/0").await.unwrap();
        let known: [(RequestId, MessageId); 1] = [(card(1).request, message.clone())];
        let (mut daemon, inbox) = StandIn::start(&[&reviewer.account()], &known);
        let teams = Arc::new(teams);
        let listening = tokio::spawn({
            let teams = Arc::clone(&teams);
            async move { teams.listen(inbox, None).await }
        });
        daemon.up().await;
        Self { daemon, teams, fake: Arc::new(fake), clock, message, reviewer, listening }
    }

    /// Sends a call; returns status and body.
    async fn call(&self, activity: Value, spec: TokenSpec) -> (u16, Value) {
        let (fake, bot) = (Arc::clone(&self.fake), self.teams.address().unwrap());
        let reply = beside(move || fake.call(bot, &activity, &spec)).await;
        (reply.status, serde_json::from_str(&reply.body).unwrap_or_default())
    }

    fn click(&self, person: &Person, verb: &str) -> Value {
        self.fake.click(person, &id_of(&self.message), verb, " looked\nat it ").unwrap()
    }

    /// Clicks, and returns what is told.
    async fn clicked(&self, person: &Person, verb: &str) -> String {
        let (status, body) = self.call(self.click(person, verb), TokenSpec::default()).await;
        assert_eq!((status, &body["statusCode"]), (200, &Value::from(200)), "{body}");
        body["value"].as_str().unwrap().to_owned()
    }

    fn only_act(&self) -> Act {
        let acts = self.daemon.acts();
        assert_eq!(acts.len(), 1);
        acts[0].clone()
    }
}

#[tokio::test]
async fn a_click_is_an_act_on_its_card() {
    let bot = Inbound::start().await;
    let click = bot.click(&bot.reviewer, "approve");
    let (status, body) = bot.call(click.clone(), TokenSpec::default()).await;
    assert_eq!(status, 200);
    assert_eq!(body, activity::told("approve counted"));
    let act = bot.only_act();
    assert_eq!(act.account.id, bot.reviewer.account());
    assert_eq!(act.account.standing, Standing::Member);
    assert_eq!((act.request, act.verb, act.typed), (card(1).request, Verb::Approve, false));
    assert_eq!(act.reason.as_deref(), Some("looked at it"));
    assert_eq!(act.evidence.message.as_ref(), Some(&bot.message));
    assert_eq!(act.evidence.card, Some(card(1).digest));
    assert_eq!(act.evidence.event, click["id"]);
    // The same again, and another one: late.
    assert!(bot.clicked(&bot.reviewer, "approve").await.starts_with("already decided"));
    assert!(bot.clicked(&bot.reviewer, "deny").await.starts_with("already decided"));
    // Asked once what the reviewer is, and asked anew when that may have changed.
    assert_eq!(bot.fake.counts().2, 1);
    bot.clock.advance(Duration::from_secs(601));
    let guest = Person { role: "guest".to_owned(), ..bot.reviewer.clone() };
    bot.fake.welcome(&guest);
    assert_eq!(bot.clicked(&bot.reviewer, "deny").await, "you may not decide this");
    assert_eq!((bot.fake.counts().2, bot.fake.faults()), (2, vec![]));
}

#[tokio::test]
async fn a_click_of_an_older_client_is_answered_by_a_message() {
    let bot = Inbound::start().await;
    let submit = bot.fake.submit(&bot.reviewer, &id_of(&bot.message), "deny", "no").unwrap();
    assert_eq!(bot.call(submit, TokenSpec::default()).await.0, 200);
    let act = bot.only_act();
    assert_eq!((act.verb, act.reason.as_deref(), act.typed), (Verb::Deny, Some("no"), false));
    assert_eq!(act.evidence.message.as_ref(), Some(&bot.message));
    let messages = bot.fake.messages();
    assert_eq!(text_of(&messages[1].2), "deny counted");
    assert_eq!(messages[1].0, format!("{CONVERSATION};messageid={}", id_of(&bot.message)));
}

#[tokio::test]
async fn what_is_typed_passes_the_same_check() {
    let bot = Inbound::start().await;
    let stranger = Person::member(2);
    bot.fake.welcome(&stranger);
    let code = card(1).request.to_string();
    for (person, text, answer) in [
        (&stranger, format!("approve {code}"), "you may not decide this"),
        (&bot.reviewer, "hello".to_owned(), activity::USAGE),
        (&bot.reviewer, format!("approve {} fine with me", code.to_lowercase()), "approve counted"),
    ] {
        let activity = bot.fake.write(person, &text);
        assert_eq!(bot.call(activity, TokenSpec::default()).await.0, 200);
        assert_eq!(text_of(&bot.fake.messages().last().unwrap().2), answer);
    }
    let acts = bot.daemon.acts();
    assert_eq!((acts.len(), acts[1].typed, acts[1].reason.as_deref()), (2, true, Some("fine with me")));
}

#[tokio::test]
async fn a_click_on_another_copy_or_elsewhere_is_stale() {
    let bot = Inbound::start().await;
    // As after a crash between a post and its record.
    let restarted = Teams::new(settings(&bot.fake), bot.clock.clone()).unwrap();
    let copy = restarted.post(&card(1), "1/0").await.unwrap();
    let click = bot.fake.click(&bot.reviewer, &id_of(&copy), "approve", "").unwrap();
    let (_, body) = bot.call(click, TokenSpec::default()).await;
    assert_eq!(body["value"], "that card is not the one of this request");
    let mut elsewhere = bot.click(&bot.reviewer, "approve");
    elsewhere["conversation"]["id"] = Value::from("19:other@thread.tacv2");
    let (_, body) = bot.call(elsewhere, TokenSpec::default()).await;
    assert!(body["value"].as_str().unwrap().contains("only in the conversation"), "{body}");
    let mut forged = bot.click(&bot.reviewer, "approve");
    forged["value"]["action"]["data"]["gatekeeper"]["verb"] = Value::from("permit");
    assert_eq!(bot.call(forged, TokenSpec::default()).await.1["statusCode"], 400);
    let mut floating = bot.click(&bot.reviewer, "approve");
    floating["replyToId"] = Value::from("");
    assert_eq!(bot.call(floating, TokenSpec::default()).await.1["statusCode"], 400);
    assert_eq!(bot.only_act().evidence.message, Some(copy));
}

#[tokio::test]
async fn only_members_of_the_tenant_are_members() {
    let bot = Inbound::start().await;
    let person = |number, change: fn(&mut Person)| {
        let mut person = Person::member(number);
        change(&mut person);
        person
    };
    let other_tenant = "ffffffff-0000-0000-0000-000000000000";
    let cases = [
        ("another tenant", person(2, |p| "ffffffff-0000-0000-0000-000000000000".clone_into(&mut p.tenant)), "external"),
        ("a guest", person(3, |p| "guest".clone_into(&mut p.role)), "guest"),
        ("a guest by name", person(4, |p| "a_b.org#EXT#@example.org".clone_into(&mut p.principal)), "guest"),
        ("anonymous", person(5, |p| "anonymous".clone_into(&mut p.role)), "external"),
        ("without an object", person(6, |p| p.object.clear()), "external"),
        ("a bot", person(7, |p| "28:99".clone_into(&mut p.id)), "bot"),
        ("of an unknown role", person(8, |p| "overlord".clone_into(&mut p.role)), "unknown"),
    ];
    for (name, person, expected) in cases {
        bot.fake.welcome(&person);
        let (_, body) = bot.call(bot.click(&person, "approve"), TokenSpec::default()).await;
        assert_eq!(body["value"], "you may not decide this", "{name}");
        let act = bot.daemon.acts().pop().unwrap();
        let standing = serde_json::to_value(&act.account.standing).unwrap();
        let standing = standing.as_str().map_or_else(|| "unknown".to_owned(), str::to_owned);
        assert_eq!(standing, expected, "{name}");
    }
    assert_eq!(bot.daemon.acts()[0].account.id, format!("{other_tenant}/{}", Person::member(2).object));
    // A program that says so; somebody whom the server does not know, or knows as somebody else; tenants that differ.
    let mut program = bot.click(&bot.reviewer, "approve");
    program["from"]["role"] = Value::from("bot");
    let unknown = bot.click(&Person::member(9), "approve");
    let mut other = bot.click(&bot.reviewer, "approve");
    other["from"]["aadObjectId"] = Value::from(Person::member(2).object);
    let mut torn = bot.click(&bot.reviewer, "approve");
    torn["channelData"]["tenant"]["id"] = Value::from(other_tenant);
    // One of ours by the server's word, from another tenant by the call's; and the other way round.
    let mut from_elsewhere = bot.click(&bot.reviewer, "approve");
    for tenant in ["/conversation/tenantId", "/channelData/tenant/id"] {
        *from_elsewhere.pointer_mut(tenant).unwrap() = Value::from(other_tenant);
    }
    let mut from_here = Person { tenant: other_tenant.to_owned(), ..Person::member(10) };
    bot.fake.welcome(&from_here);
    TENANT.clone_into(&mut from_here.tenant);
    let from_here = bot.click(&from_here, "approve");
    for activity in [program, unknown, other, torn, from_elsewhere, from_here] {
        let (_, body) = bot.call(activity, TokenSpec::default()).await;
        assert_eq!(body["value"], "you may not decide this", "{body}");
    }
    assert!(bot.daemon.acts().iter().all(|act| act.account.standing != Standing::Member));
}

#[tokio::test]
async fn calls_without_a_good_token_are_refused() {
    let bot = Inbound::start().await;
    let good = TokenSpec::default();
    let with = |change: fn(&mut TokenSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let cases = [
        ("just expired", 200, with(|s| s.lifetime = (-3_600, -299))),
        ("just early", 200, with(|s| s.lifetime = (299, 3_600))),
        ("expired", 401, with(|s| s.lifetime = (-3_600, -301))),
        ("early", 401, with(|s| s.lifetime = (301, 3_600))),
        ("another issuer", 401, with(|s| s.issuer = "https://sts.windows.net/x/".to_owned())),
        ("another bot", 401, with(|s| s.audience = TENANT.to_owned())),
        ("no signature", 401, with(|s| s.algorithm = "none".to_owned())),
        ("the public key as a secret", 401, with(|s| s.algorithm = "HS256".to_owned())),
        ("another key", 401, with(|s| s.key.1 = 1)),
        ("an unknown key", 401, with(|s| s.key = ("key-1".to_owned(), 1))),
        ("another server", 403, with(|s| s.service_url = "https://example.org/".to_owned())),
    ];
    for (name, expected, spec) in cases {
        let (status, body) = bot.call(bot.click(&bot.reviewer, "escalate"), spec).await;
        assert_eq!(status, expected, "{name}: {body}");
    }
    assert_eq!(bot.daemon.acts().len(), 2);
    // Token and call agree about a server that is not ours; or the call is of another channel.
    let mut elsewhere = bot.click(&bot.reviewer, "approve");
    elsewhere["serviceUrl"] = Value::from("https://example.org/");
    assert_eq!(bot.call(elsewhere, with(|s| s.service_url = "https://example.org/".to_owned())).await.0, 403);
    for channel in ["webchat", "directline"] {
        let mut other = bot.click(&bot.reviewer, "approve");
        other["channelId"] = Value::from(channel);
        assert_eq!(bot.call(other, good.clone()).await.0, 403, "{channel}");
    }
    for authorization in [None, Some("Bearer"), Some("Bearer x"), Some("Bearer a.b.c"), Some("Basic eDp5")] {
        let (fake, address) = (Arc::clone(&bot.fake), bot.teams.address().unwrap());
        let click = bot.click(&bot.reviewer, "approve");
        let reply = beside(move || fake.call_with(address, &click, authorization)).await;
        assert_eq!(reply.status, 401, "{authorization:?}");
    }
    assert_eq!(bot.daemon.acts().len(), 2);
    // One fetch of the keys for all of this.
    assert_eq!(bot.fake.counts().1, 1);
}

#[tokio::test]
async fn keys_that_change_are_found_and_old_ones_forgotten() {
    let bot = Inbound::start().await;
    let new = TokenSpec { key: ("key-1".to_owned(), 1), ..TokenSpec::default() };
    assert_eq!(bot.call(bot.click(&bot.reviewer, "escalate"), TokenSpec::default()).await.0, 200);
    bot.fake.publish(vec![published(0, &["msteams"]), published(1, &["msteams"])]);
    // Not as often as anybody likes.
    assert_eq!(bot.call(bot.click(&bot.reviewer, "escalate"), new.clone()).await.0, 401);
    bot.clock.advance(Duration::from_secs(61));
    assert_eq!(bot.call(bot.click(&bot.reviewer, "escalate"), new.clone()).await.0, 200);
    assert_eq!(bot.fake.counts().1, 2);
    // A day later the old key is withdrawn, and the new one may not sign for Teams any more.
    bot.fake.publish(vec![published(1, &["webchat"])]);
    bot.clock.advance(Duration::from_secs(24 * 3_600));
    let later = (23 * 3_600, 25 * 3_600);
    let old = TokenSpec { lifetime: later, ..TokenSpec::default() };
    assert_eq!(bot.call(bot.click(&bot.reviewer, "escalate"), old).await.0, 401);
    let new = TokenSpec { lifetime: later, ..new };
    assert_eq!(bot.call(bot.click(&bot.reviewer, "escalate"), new).await.0, 403);
}

#[tokio::test]
async fn a_late_answer_is_no_lost_act() {
    let mut bot = Inbound::start_with(|teams| {
        Arc::get_mut(&mut teams.desk).unwrap().answer_time = Duration::ZERO;
    })
    .await;
    let text = bot.clicked(&bot.reviewer, "approve").await;
    assert!(text == "approve counted" || text.starts_with("gatekeeper is at it"), "{text}");
    assert_eq!(bot.daemon.acted(1).await.len(), 1);
}

#[tokio::test]
async fn other_calls_are_answered_as_teams_expects() {
    let bot = Inbound::start().await;
    let mut added = bot.fake.write(&bot.reviewer, "");
    added["type"] = Value::from("conversationUpdate");
    assert_eq!(bot.call(added, TokenSpec::default()).await.0, 200);
    let mut fetch = bot.click(&bot.reviewer, "approve");
    fetch["name"] = Value::from("task/fetch");
    assert_eq!(bot.call(fetch, TokenSpec::default()).await.0, 501);
    let garbage = Value::from("x".repeat(300_000));
    assert_eq!(bot.call(garbage, TokenSpec::default()).await.0, 413);
    assert_eq!(bot.call(Value::from("x"), TokenSpec::default()).await.0, 400);
    assert_eq!(bot.daemon.acts(), []);
}
