//! What the view knows, and what keys do to it. Pure: events in, commands out, so that it is tested without a terminal.
//!
//! Two rules keep a reviewer from deciding what was not meant. The selection belongs to a request, not to a place in the
//! list, and stays on it when it ends. And what the view has selected by itself cannot be decided before a person could
//! have seen it.

use std::time::Duration;

use super::super::decide;
use crate::{
    channel::{Verb, card},
    request::{Effect, Request, RequestId},
};

/// Keys pressed sooner after the view has selected a request by itself were meant for something else.
const GUARD: Duration = Duration::from_millis(700);

/// Keys that do something about the selected request.
const VERBS: [(char, Verb); 5] =
    [('a', Verb::Approve), ('d', Verb::Deny), ('s', Verb::DenyAndStop), ('e', Verb::Escalate), ('x', Verb::Extend)];

/// A key, as far as the view cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A character.
    Char(char),
    /// Text that was pasted: never a command.
    Paste(String),
    Enter,
    Escape,
    Backspace,
    /// Delete what was typed.
    Clear,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Leave, whatever is going on.
    Interrupt,
}

/// What the view asks of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Act { id: RequestId, verb: Verb, reason: Option<String> },
    Quit,
}

/// What keys mean at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Browse,
    /// The reason for what is to be done about this request is being typed.
    Reason {
        id: RequestId,
        verb: Verb,
        text: String,
    },
    Help,
}

/// A request in the list.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) request: Request,
    /// A decision is on its way.
    pub(super) deciding: bool,
}

/// All that the view shows.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// By deadline; what ended stays only while it is selected.
    pub(super) items: Vec<Item>,
    pub(super) selected: Option<RequestId>,
    /// When the view selected by itself what is selected.
    guarded_since_ms: Option<u64>,
    /// The first line of the detail that shows.
    pub(super) scroll: usize,
    pub(super) input: Input,
    /// What happened last.
    pub(super) note: Option<String>,
    /// Why the list may be out of date.
    pub(super) lost: Option<String>,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            selected: None,
            guarded_since_ms: None,
            scroll: 0,
            input: Input::Browse,
            note: None,
            lost: None,
        }
    }

    /// The whole list, after connecting.
    pub(super) fn replace(&mut self, requests: Vec<Request>, now_ms: u64) {
        self.lost = None;
        let kept = self.selected_item().cloned();
        // An answer that is still on its way comes over a connection of its own.
        let deciding: Vec<_> = self.items.iter().filter(|item| item.deciding).map(|item| item.request.id).collect();
        let item = |request: Request| Item { deciding: deciding.contains(&request.id), request };
        self.items = requests.into_iter().map(item).collect();
        // What was selected may have been decided while the connection was down: its end is unknown, so it goes.
        if let Some(kept) = kept.filter(|kept| self.position(kept.request.id).is_none()) {
            self.note = Some(format!("request {} does not wait any more", kept.request.id));
        }
        self.settle(now_ms);
    }

    /// A request is new, or has changed.
    pub(super) fn change(&mut self, request: Request, now_ms: u64) {
        match self.position(request.id) {
            Some(position) => self.items[position].request = request,
            None if request.state.is_final() => {}
            None => self.items.push(Item { request, deciding: false }),
        }
        self.settle(now_ms);
    }

    /// The answer to a decision.
    pub(super) fn decided(&mut self, id: RequestId, verb: Verb, answer: Result<Request, String>, now_ms: u64) {
        if let Some(position) = self.position(id) {
            self.items[position].deciding = false;
        }
        match answer {
            Ok(request) => {
                self.note = Some(decide::outcome(&request, verb).unwrap_or_else(|not| not));
                self.change(request, now_ms);
            }
            Err(error) => self.note = Some(error),
        }
    }

    pub(super) fn selected_item(&self) -> Option<&Item> {
        self.selected.and_then(|id| self.position(id)).map(|position| &self.items[position])
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.items.iter().filter(|item| !item.request.state.is_final()).count()
    }

    fn position(&self, id: RequestId) -> Option<usize> {
        self.items.iter().position(|item| item.request.id == id)
    }

    /// Drops what ended and is not looked at, sorts, and selects something if nothing is selected.
    fn settle(&mut self, now_ms: u64) {
        let selected = self.selected;
        self.items.retain(|item| !item.request.state.is_final() || Some(item.request.id) == selected);
        self.items.sort_by_key(|item| (item.request.deadline_ms, item.request.id));
        if self.selected_item().is_none() {
            self.selected = self.items.first().map(|item| item.request.id);
            self.guarded_since_ms = Some(now_ms);
            self.scroll = 0;
            if let Input::Reason { id, .. } = &self.input {
                self.note = Some(format!("request {id} does not wait any more"));
                self.input = Input::Browse;
            }
        }
    }

    /// Handles a key. `page` is how many lines of detail show at once.
    pub(super) fn press(&mut self, key: Key, page: usize, now_ms: u64) -> Option<Command> {
        if key == Key::Interrupt {
            return Some(Command::Quit);
        }
        match &mut self.input {
            Input::Browse => self.press_browsing(key, page, now_ms),
            Input::Help => {
                self.input = Input::Browse;
                None
            }
            Input::Reason { id, verb, text } => {
                let (id, verb) = (*id, *verb);
                match key {
                    Key::Char(c) => text.push(c),
                    Key::Paste(pasted) => text.extend(pasted.chars().map(|c| if c.is_control() { ' ' } else { c })),
                    Key::Backspace => drop(text.pop()),
                    Key::Clear => text.clear(),
                    Key::Escape => {
                        self.input = Input::Browse;
                        self.note = Some(format!("request {id} still waits"));
                    }
                    Key::Enter => match decide::parse_reason(text) {
                        Ok(reason) => {
                            self.input = Input::Browse;
                            return self.act(id, verb, Some(reason));
                        }
                        Err(error) => self.note = Some(error),
                    },
                    _ => {}
                }
                None
            }
        }
    }

    fn press_browsing(&mut self, key: Key, page: usize, now_ms: u64) -> Option<Command> {
        self.note = None;
        match key {
            Key::Char('q') => return Some(Command::Quit),
            Key::Char('?' | 'h') => self.input = Input::Help,
            Key::Char('j') | Key::Down => self.select(1, now_ms),
            Key::Char('k') | Key::Up => self.select(-1, now_ms),
            Key::Char(' ') | Key::PageDown => self.scroll = self.scroll.saturating_add(page),
            Key::Char('b') | Key::PageUp => self.scroll = self.scroll.saturating_sub(page),
            Key::Home => self.scroll = 0,
            // Drawing brings it back to the last page.
            Key::End => self.scroll = usize::MAX,
            Key::Char(key) => {
                let verb = VERBS.iter().find(|(known, _)| *known == key).map(|(_, verb)| *verb)?;
                return self.begin(verb, now_ms);
            }
            _ => {}
        }
        None
    }

    fn select(&mut self, step: isize, now_ms: u64) {
        let Some(position) = self.selected.and_then(|id| self.position(id)) else { return };
        let target = position.saturating_add_signed(step).min(self.items.len() - 1);
        if target == position {
            return;
        }
        self.selected = Some(self.items[target].request.id);
        self.guarded_since_ms = None;
        self.scroll = 0;
        self.settle(now_ms);
    }

    /// The selected request, if it can be decided now; else the note says why not.
    fn decidable(&mut self, now_ms: u64) -> Option<RequestId> {
        let Some(Item { request, deciding }) = self.selected_item() else {
            self.note = Some("nothing waits".to_owned());
            return None;
        };
        let (id, state, deciding) = (request.id, request.state.clone(), *deciding);
        let is_guarded =
            self.guarded_since_ms.is_some_and(|since| u128::from(now_ms.saturating_sub(since)) < GUARD.as_millis());
        if state != crate::request::State::Pending || deciding {
            let state = if deciding { "being decided" } else { card::state_name(&state) };
            self.note = Some(format!("request {id} is {state}"));
            None
        } else if is_guarded {
            self.note = Some(format!("request {id} has only just come up; look at it, then press the key again"));
            None
        } else {
            Some(id)
        }
    }

    /// Begins what a key stands for: at once, or with the question why.
    fn begin(&mut self, verb: Verb, now_ms: u64) -> Option<Command> {
        let id = self.decidable(now_ms)?;
        let ask = &self.selected_item()?.request.ask;
        let Some(effect) = verb.effect(decide::DENIED) else { return self.act(id, verb, None) };
        if effect == Effect::Allow && ask.second_factor {
            self.note = Some(format!("{id} wants a signature by your own key: `gatekeeper approve {id} --key FILE`"));
            return None;
        }
        // Nobody denies by a slip of one finger, whatever the rule says.
        if effect != Effect::Allow || ask.comment.is_wanted(effect, true) {
            self.input = Input::Reason { id, verb, text: String::new() };
            return None;
        }
        self.act(id, verb, None)
    }

    fn act(&mut self, id: RequestId, verb: Verb, reason: Option<String>) -> Option<Command> {
        let Some(position) = self.position(id) else {
            self.note = Some(format!("request {id} does not wait any more"));
            return None;
        };
        self.items[position].deciding = true;
        self.note = Some(format!("deciding {id} …"));
        Some(Command::Act { id, verb, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::samples,
        request::{Comment, State},
    };

    const LATER: u64 = 10_000;

    fn view(holds: &[u64]) -> View {
        let mut view = View::new();
        view.replace(holds.iter().map(|hold| request(*hold)).collect(), 0);
        view
    }

    /// Later holds have later deadlines.
    fn request(hold: u64) -> Request {
        let request = samples::request(hold);
        Request { deadline_ms: request.deadline_ms + hold, ..request }
    }

    fn id(hold: u64) -> RequestId {
        request(hold).id
    }

    fn ended(hold: u64) -> Request {
        Request { state: State::Denied, ..request(hold) }
    }

    fn press(view: &mut View, keys: &str) -> Option<Command> {
        let mut command = None;
        for key in keys.chars() {
            let key = if key == '\n' { Key::Enter } else { Key::Char(key) };
            command = view.press(key, 10, LATER);
        }
        command
    }

    #[test]
    fn a_approves_what_is_selected() {
        let mut view = view(&[2, 1]);
        assert_eq!(view.selected, Some(id(1)), "the nearest deadline comes first");
        let expected = Command::Act { id: id(2), verb: Verb::Approve, reason: None };
        assert_eq!(press(&mut view, "ja"), Some(expected));
        assert_eq!(press(&mut view, "a"), None, "it is being decided already");
    }

    #[test]
    fn d_asks_for_a_reason_first() {
        let mut view = view(&[1]);
        assert_eq!(press(&mut view, "d\n"), None);
        assert_eq!(view.note.as_deref(), Some("a reason cannot be empty"));
        let deny = |reason: &str| Command::Act { id: id(1), verb: Verb::Deny, reason: Some(reason.to_owned()) };
        assert_eq!(press(&mut view, "qaj\n"), Some(deny("qaj")), "keys are text here");
    }

    #[test]
    fn s_e_and_x_stop_escalate_and_extend() {
        let reason = Some("gone wild".to_owned());
        let stop = Command::Act { id: id(1), verb: Verb::DenyAndStop, reason };
        assert_eq!(press(&mut view(&[1]), "sgone wild\n"), Some(stop));
        for (key, verb) in [("e", Verb::Escalate), ("x", Verb::Extend)] {
            assert_eq!(press(&mut view(&[1]), key), Some(Command::Act { id: id(1), verb, reason: None }));
        }
        assert_eq!(press(&mut view(&[1]), "z"), None);
    }

    #[test]
    fn what_the_rule_wants_with_an_approval_is_asked_for() {
        let with = |comment, second_factor| {
            let mut request = request(1);
            (request.ask.comment, request.ask.second_factor) = (comment, second_factor);
            let mut view = View::new();
            view.replace(vec![request], 0);
            view
        };
        let mut view = with(Comment::Approve, false);
        assert_eq!(press(&mut view, "a\n"), None);
        assert_eq!(view.note.as_deref(), Some("a reason cannot be empty"));
        let expected = Command::Act { id: id(1), verb: Verb::Approve, reason: Some("seen".to_owned()) };
        assert_eq!(press(&mut view, "seen\n"), Some(expected));
        let mut view = with(Comment::default(), true);
        assert_eq!(press(&mut view, "a"), None);
        let note = view.note.clone().unwrap_or_default();
        assert!(note.contains(&format!("gatekeeper approve {} --key FILE", id(1))), "{note}");
    }

    #[test]
    fn escape_leaves_the_request_waiting() {
        let mut view = view(&[1]);
        press(&mut view, "dno");
        assert_eq!(view.press(Key::Escape, 10, LATER), None);
        assert_eq!(view.input, Input::Browse);
        assert_eq!(view.waiting(), 1);
    }

    #[test]
    fn the_selection_stays_on_a_request_that_ends() {
        let mut view = view(&[1, 2]);
        view.change(ended(1), LATER);
        assert_eq!(view.selected, Some(id(1)));
        assert_eq!(press(&mut view, "a"), None, "the key does not reach the next one");
        assert_eq!(view.note, Some(format!("request {} is denied", id(1))));
        press(&mut view, "j");
        assert_eq!(view.selected, Some(id(2)));
        assert_eq!(view.items.len(), 1, "it goes when it is not looked at any more");
    }

    #[test]
    fn what_comes_up_by_itself_cannot_be_decided_blindly() {
        let mut view = view(&[]);
        view.change(request(1), LATER);
        assert_eq!(view.press(Key::Char('a'), 10, LATER + 100), None);
        assert!(view.note.as_deref().is_some_and(|note| note.contains("only just come up")));
        assert!(view.press(Key::Char('a'), 10, LATER + 1_000).is_some());
    }

    #[test]
    fn a_paste_is_never_a_command() {
        let mut view = view(&[1]);
        assert_eq!(view.press(Key::Paste("aaaq".to_owned()), 10, LATER), None);
        assert_eq!(view.waiting(), 1);
        press(&mut view, "d");
        view.press(Key::Paste("because\nx\x1b".to_owned()), 10, LATER);
        assert_eq!(view.input, Input::Reason { id: id(1), verb: Verb::Deny, text: "because x ".to_owned() });
    }

    #[test]
    fn a_reason_for_a_request_that_is_gone_is_dropped() {
        let mut view = view(&[1, 2]);
        press(&mut view, "dno");
        view.replace(vec![request(2)], LATER);
        assert_eq!(view.input, Input::Browse);
        assert_eq!(press(&mut view, "\n"), None);
        let mut view = self::view(&[1]);
        press(&mut view, "dno");
        view.change(ended(1), LATER);
        let command = press(&mut view, "\n");
        assert!(command.is_some(), "the daemon answers that it is decided, and the note says so");
    }

    #[test]
    fn the_answer_of_the_daemon_is_told() {
        let mut view = view(&[1]);
        press(&mut view, "a");
        view.decided(id(1), Verb::Approve, Err("request is gone".to_owned()), LATER);
        assert_eq!(view.note.as_deref(), Some("request is gone"));
        assert!(press(&mut view, "a").is_some(), "it can be tried again");
        let released = Request { state: State::Released, ..request(1) };
        view.decided(id(1), Verb::Approve, Ok(released), LATER);
        assert!(view.note.as_deref().is_some_and(|note| note.starts_with("approved")));
        assert_eq!(view.waiting(), 0);
    }

    #[test]
    fn q_and_interrupt_leave() {
        assert_eq!(press(&mut view(&[1]), "q"), Some(Command::Quit));
        let mut view = view(&[1]);
        press(&mut view, "d");
        assert_eq!(view.press(Key::Interrupt, 10, LATER), Some(Command::Quit));
    }
}
