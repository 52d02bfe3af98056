//! The view as lines of text. Pure, so that its tests read like a screen.
//!
//! The list gives each request one line, which ends in a mark where it is cut; the detail below it has everything, and
//! wraps and scrolls. The last line says what keys do, and how much more there is.

use super::{
    super::wrap::{beginning, columns, wrap},
    model::{Input, Item, View},
};
use crate::channel::card::{self, LABEL_COLUMNS, time};

/// Rows of the list at most, so that the detail has most of the screen.
const LIST_ROWS: usize = 8;

/// The smallest screen that shows anything useful.
pub(super) const MIN_WIDTH: usize = 40;
pub(super) const MIN_HEIGHT: usize = 10;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Bold,
    /// Light on dark and the other way round.
    Reverse,
}

/// A line of the screen, not longer than the screen is wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) look: Look,
}

/// A whole screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    pub(super) rows: Vec<Row>,
    /// Lines of detail that show at once.
    pub(super) page: usize,
    /// The furthest that the detail can be scrolled.
    pub(super) max_scroll: usize,
}

const KEYS: &str = "a approve  d deny  s stop  j/k select  space/b scroll  ? help  q quit";

const HELP: &[&str] = &[
    "Each line of the list is a request: an action of an agent that waits inside its",
    "own system call. Below it is everything that is known about the selected one.",
    "",
    "a            approve: the action goes on, once",
    "d            deny: asks for a reason, then the action fails with EPERM",
    "s            stop: the same, and every process of the agent's run is killed",
    "e            escalate: the next reviewers of the rule are asked now",
    "x            extend: the deadline moves by its own length",
    "j, down      select the next request",
    "k, up        select the previous request",
    "space, PgDn  scroll the detail down      b, PgUp  scroll it up",
    "Home, End    to the beginning or the end of the detail",
    "q, Ctrl-C    leave; what waits goes on waiting",
    "",
    "Text that an agent chose is shown escaped: \\n is a line end that it wrote.",
    "Any key closes this help.",
];

/// Draws the view.
pub(super) fn draw(view: &View, width: usize, height: usize, now_ms: u64) -> Screen {
    let mut rows = Vec::with_capacity(height);
    if width < MIN_WIDTH || height < MIN_HEIGHT {
        let message = format!("make this terminal at least {MIN_WIDTH}x{MIN_HEIGHT}");
        rows.extend(wrap(&message, width).into_iter().take(height).map(plain));
        return Screen { rows, page: 1, max_scroll: 0 };
    }
    let title = match (&view.lost, view.waiting()) {
        (Some(lost), _) => format!(" not up to date: {lost}"),
        (None, 1) => " gatekeeper review: 1 request waits".to_owned(),
        (None, waiting) => format!(" gatekeeper review: {waiting} requests wait"),
    };
    rows.push(Row { text: fill(&title, width), look: Look::Reverse });

    // The bottom takes what it needs: a reason that is being typed must show to its last letter.
    let bottom = bottom(view, width, height / 3);
    let room = height - 1 - bottom.len();
    if view.input == Input::Help {
        let help = HELP.iter().flat_map(|line| wrap(line, width));
        rows.extend(help.take(room).map(plain));
        return finish(rows, bottom, height, 1, 0);
    }
    if view.items.is_empty() {
        rows.push(plain(""));
        rows.push(plain(" Nothing waits. Requests appear here as soon as an action of an agent is held."));
        for row in &mut rows {
            row.text = cut(&row.text, width);
        }
        return finish(rows, bottom, height, 1, 0);
    }

    let list_rows = view.items.len().min(LIST_ROWS).min(room / 3);
    rows.extend(list(view, list_rows, width, now_ms));
    let detail = view.selected_item().map(|item| detail(item, width, now_ms)).unwrap_or_default();
    // One row divides list and detail, and says where in the detail we are.
    let page = room.saturating_sub(list_rows + 1).max(1);
    let max_scroll = detail.len().saturating_sub(page);
    let scroll = view.scroll.min(max_scroll);
    let below = detail.len() - (scroll + page).min(detail.len());
    let place = match (scroll, below) {
        (0, 0) => String::new(),
        (0, below) => format!(" {below} more lines below: space "),
        (above, 0) => format!(" {above} lines above: b, end "),
        (above, below) => format!(" {above} lines above: b, {below} below: space "),
    };
    let dashes = width.saturating_sub(columns(&place) + 2);
    rows.push(Row { text: format!("{}{place}──", "─".repeat(dashes)), look: Look::Bold });
    rows.extend(detail.into_iter().skip(scroll).take(page));
    finish(rows, bottom, height, page, max_scroll)
}

fn plain(text: &str) -> Row {
    Row { text: text.to_owned(), look: Look::Plain }
}

fn finish(mut rows: Vec<Row>, bottom: Vec<Row>, height: usize, page: usize, max_scroll: usize) -> Screen {
    rows.resize(height - bottom.len(), plain(""));
    rows.extend(bottom);
    Screen { rows, page, max_scroll }
}

/// The list, moved so that the selection shows.
fn list(view: &View, rows: usize, width: usize, now_ms: u64) -> Vec<Row> {
    let selected = view.items.iter().position(|item| Some(item.request.id) == view.selected).unwrap_or(0);
    let first = (selected + 1).saturating_sub(rows);
    let shown = view.items.iter().enumerate().skip(first).take(rows);
    let row = |(position, item): (usize, &Item)| {
        let request = &item.request;
        let stands = if item.deciding {
            "deciding".to_owned()
        } else if request.state.is_final() {
            card::state_name(&request.state).to_owned()
        } else {
            time::left(request.deadline_ms, now_ms)
        };
        let marker = if position == selected { '>' } else { ' ' };
        let (risk, agent) = (card::risk_name(request.ask.risk), card::safe(&request.action.agent));
        let action = card::action_line(&request.action);
        let text = format!("{marker}{}  {stands:<10} {risk:<8} {agent}  {action}", request.id);
        let look = if position == selected { Look::Reverse } else { Look::Plain };
        let text = cut(&text, width);
        Row { text: if look == Look::Reverse { fill(&text, width) } else { text }, look }
    };
    shown.map(row).collect()
}

/// Everything about a request, wrapped.
fn detail(item: &Item, width: usize, now_ms: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for card::Line { label, text } in card::detail(&item.request, now_ms) {
        for (position, piece) in wrap(&text, width - LABEL_COLUMNS).into_iter().enumerate() {
            // A mark on lines that go on, so that a wrapped text cannot pose as a line of its own.
            let label = match position {
                0 => format!("{label:<LABEL_COLUMNS$}"),
                _ => format!("{:>width$} ", "↪", width = LABEL_COLUMNS - 1),
            };
            let look = if matches!(label.trim(), "action" | "beware") { Look::Bold } else { Look::Plain };
            rows.push(Row { text: format!("{label}{piece}"), look });
        }
    }
    rows
}

/// The note, and the keys or what is being typed.
fn bottom(view: &View, width: usize, max_rows: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    if let Some(note) = &view.note {
        rows.extend(wrap(note, width).into_iter().map(|text| Row { text: text.to_owned(), look: Look::Bold }));
        if rows.len() > max_rows {
            rows.truncate(max_rows);
            if let Some(last) = rows.last_mut() {
                last.text = format!("{}…", beginning(&last.text, width - 2));
            }
        }
    }
    match &view.input {
        Input::Reason { id, verb, text } => {
            let prompt = format!("why {} {id}? (Enter sends, Esc goes back) {}_", verb.word(), card::safe(text));
            let pieces = wrap(&prompt, width);
            // The end is where one types.
            let skipped = pieces.len().saturating_sub(max_rows.max(1));
            rows.extend(pieces.into_iter().skip(skipped).map(plain));
        }
        Input::Browse | Input::Help => rows.push(Row { text: fill(&cut(KEYS, width), width), look: Look::Reverse }),
    }
    rows
}

/// Fits a line of the list, with a mark if something is missing.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    // The mark counts as two columns, like all beyond ASCII.
    format!("{}…", beginning(text, width - 2))
}

/// Pads with spaces to the width of the screen.
fn fill(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let missing = width.saturating_sub(columns(&text));
    format!("{text}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::Target, channel::Verb, cli::review::model::Key, control::samples, request::Request, text::Text,
    };

    fn view(requests: Vec<Request>) -> View {
        let mut view = View::new();
        view.replace(requests, 0);
        view
    }

    fn now() -> u64 {
        samples::request(1).held_at_ms + 65_000
    }

    fn text(screen: &Screen) -> Vec<&str> {
        screen.rows.iter().map(|row| row.text.trim_end()).collect()
    }

    #[test]
    fn a_small_terminal_shows_list_detail_and_keys() {
        let screen = draw(&view(vec![samples::request(1), samples::request(2)]), 80, 24, now());
        let lines = text(&screen);
        let mut ids = [samples::request(1).id, samples::request(2).id];
        ids.sort();
        assert_eq!(lines.len(), 24);
        assert_eq!(lines[0], " gatekeeper review: 2 requests wait");
        assert_eq!(
            lines[1],
            format!(">{}  3m 55s     high     builder  exec /usr/bin/git: git push --force \"…", ids[0])
        );
        assert!(lines[2].starts_with(&format!(" {}", ids[1])));
        assert!(lines[3].ends_with("more lines below: space ──"), "{}", lines[3]);
        assert_eq!(lines[4], format!("request      {}, pending", ids[0]));
        assert_eq!(lines[23], KEYS);
    }

    #[test]
    fn scrolling_shows_every_line_once() {
        let mut request = samples::request(1);
        let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
        args.extend((0..200).map(|number| Text::from(format!("argument-{number} {}", "y".repeat(90)).as_str())));
        let mut view = view(vec![request.clone()]);
        let mut seen = Vec::new();
        loop {
            let screen = draw(&view, 80, 24, now());
            let position = screen.rows.iter().position(|row| row.text.contains("──")).expect("a divider");
            let detail = &screen.rows[position + 1..23];
            let skipped = seen.len() - view.scroll.min(screen.max_scroll);
            seen.extend(detail.iter().skip(skipped).cloned());
            if view.scroll >= screen.max_scroll {
                break;
            }
            view.press(Key::Char(' '), screen.page, now());
        }
        let item = Item { request, deciding: false };
        assert_eq!(seen, super::detail(&item, 80, now()));
    }

    #[test]
    fn nothing_runs_over_the_edge() {
        let mut request = samples::request(1);
        request.context.intent = Some("木\u{1b}".repeat(100));
        request.action.agent = "木".repeat(60);
        let mut view = view(vec![request, samples::request(2)]);
        for note in [None, Some("x".repeat(2_000))] {
            view.note = note;
            for input in [
                Input::Browse,
                Input::Help,
                Input::Reason { id: samples::request(1).id, verb: Verb::Deny, text: "木 ".repeat(300) },
            ] {
                view.input = input;
                for (width, height) in [(80, 24), (40, 10), (41, 11), (200, 60), (20, 5), (1, 1)] {
                    let screen = draw(&view, width, height, now());
                    assert!(screen.rows.len() <= height, "{width}x{height}");
                    for row in &screen.rows {
                        let is_divider = row.text.contains("──");
                        let wide = if is_divider { row.text.chars().count() } else { columns(&row.text) };
                        assert!(wide <= width.max(2), "{width}x{height}: {:?}", row.text);
                        assert!(!row.text.contains('\u{1b}'));
                    }
                }
            }
        }
    }

    #[test]
    fn the_selection_stays_in_sight_in_a_long_list() {
        let mut view = view((0..50).map(samples::request).collect());
        for _ in 0..30 {
            view.press(Key::Down, 10, now());
        }
        let selected = view.selected.expect("a selection").to_string();
        let screen = draw(&view, 80, 24, now());
        assert!(text(&screen)[1..9].iter().any(|line| line.starts_with(&format!(">{selected}"))));
    }

    #[test]
    fn the_end_of_a_typed_reason_shows() {
        let mut view = view(vec![samples::request(1)]);
        view.input = Input::Reason {
            id: samples::request(1).id,
            verb: Verb::Deny,
            text: format!("{} the end", "word ".repeat(200)),
        };
        let screen = draw(&view, 80, 24, now());
        assert!(text(&screen)[23].ends_with("the end_"));
    }

    #[test]
    fn an_empty_list_and_a_lost_daemon_are_told() {
        let mut view = view(Vec::new());
        assert!(text(&draw(&view, 80, 24, now()))[2].starts_with(" Nothing waits."));
        view.lost = Some("no daemon answers".to_owned());
        assert_eq!(text(&draw(&view, 80, 24, now()))[0], " not up to date: no daemon answers");
    }
}
