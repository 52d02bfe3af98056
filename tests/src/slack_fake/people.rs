//! Kinds of accounts.

use serde_json::{Value, json};

use super::state::TEAM;

/// A user object of a kind: `member`, `bot`, `app`, `guest`, `single_channel_guest`, `deleted`, `external`, `unconfirmed`.
pub(crate) fn user(id: &str, kind: &str) -> Option<Value> {
    let mut user = json!({
        "id": id,
        "team_id": TEAM,
        "name": id.to_lowercase(),
        "real_name": format!("Account {id}"),
        "deleted": false,
        "is_bot": false,
        "is_app_user": false,
        "is_restricted": false,
        "is_ultra_restricted": false,
        "is_email_confirmed": true,
        "profile": { "display_name": format!("account {id}") },
    });
    match kind {
        "member" => {}
        "bot" => user["is_bot"] = json!(true),
        "app" => user["is_app_user"] = json!(true),
        "guest" => user["is_restricted"] = json!(true),
        "single_channel_guest" => {
            user["is_restricted"] = json!(true);
            user["is_ultra_restricted"] = json!(true);
        }
        "deleted" => user["deleted"] = json!(true),
        "external" => user["team_id"] = json!("T2"),
        "unconfirmed" => user["is_email_confirmed"] = json!(false),
        _ => return None,
    }
    Some(user)
}
