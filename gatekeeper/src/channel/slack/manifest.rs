//! What the app is to Slack: pasted there once, it makes an app with just the rights that are needed.

use serde_json::json;

/// What the bot token must be good for, and why.
pub(super) const SCOPES: [&str; 4] = [
    // Cards, their changes, threads, private answers.
    "chat:write",
    // Whether an account is a person in good standing.
    "users:read",
    // Typed commands, and finding a card that is there already: in public conversations and in private ones.
    "channels:history",
    "groups:history",
];

/// The app manifest, as JSON: to be pasted where Slack makes an app "from a manifest".
pub fn manifest() -> String {
    let manifest = json!({
        "display_information": {
            "name": "gatekeeper",
            "description": "Asks people before AI agents do what needs a person's word",
        },
        "features": {
            "bot_user": { "display_name": "gatekeeper", "always_online": false },
        },
        "oauth_config": { "scopes": { "bot": SCOPES } },
        "settings": {
            "event_subscriptions": { "bot_events": ["message.channels", "message.groups"] },
            "interactivity": { "is_enabled": true },
            "org_deploy_enabled": false,
            "socket_mode_enabled": true,
            "token_rotation_enabled": false,
        },
    });
    format!("{manifest:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_asks_for_no_more_than_is_used() {
        let manifest: serde_json::Value = serde_json::from_str(&manifest()).unwrap();
        assert_eq!(manifest["oauth_config"]["scopes"], json!({ "bot": SCOPES }));
        assert_eq!(manifest["settings"]["socket_mode_enabled"], true);
        // Limits of Slack's manifest reference.
        assert!(manifest["display_information"]["name"].as_str().unwrap().len() <= 35);
        assert!(manifest["display_information"]["description"].as_str().unwrap().len() <= 140);
    }
}
