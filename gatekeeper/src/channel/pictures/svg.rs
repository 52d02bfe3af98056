//! Pictures of cards: boxes, lines of text and buttons, one below the other.
//!
//! Nothing is measured: each character is as wide as the font says for a monospaced one, so the same card is the same
//! picture everywhere.

use std::fmt::Write as _;

/// Width of a picture and of what surrounds its text, in pixels.
const WIDTH: usize = 860;
const MARGIN: usize = 16;
/// Of the font, in pixels: its size, the width of a character in tenths, the height of a line.
const FONT: usize = 12;
const CHARACTER: usize = 73;
const LINE: usize = 17;
const COLUMNS: usize = (WIDTH - 2 * MARGIN - 24) * 10 / CHARACTER;

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Faint,
    Warning,
}

/// A part of a line.
pub(super) type Span = (String, Style);

/// A part of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A line of text, which takes as many as it needs.
    Text(Vec<Span>),
    /// Lines in a box.
    Boxed(Vec<String>),
    /// Something to tap: what it says, and whether it is the first choice.
    Buttons(Vec<(String, bool)>),
    /// Something to type into.
    Input(String),
}

/// Draws a card under the name of what shows it.
pub(super) fn draw(place: &str, parts: &[Part]) -> String {
    let mut drawing = Drawing { body: String::new(), y: MARGIN };
    drawing.line(MARGIN, &[(place.to_owned(), Style::Faint)]);
    drawing.y += 6;
    for part in parts {
        match part {
            Part::Text(spans) => wrap(spans, COLUMNS).iter().for_each(|line| drawing.line(MARGIN + 8, line)),
            Part::Boxed(lines) => {
                let lines: Vec<_> =
                    lines.iter().flat_map(|line| wrap(&[(line.clone(), Style::Plain)], COLUMNS)).collect();
                drawing.rectangle(MARGIN, WIDTH - 2 * MARGIN, lines.len() * LINE + 8, "#f4f4f4", "#dddddd");
                drawing.y += 4;
                lines.iter().for_each(|line| drawing.line(MARGIN + 8, line));
                drawing.y += 8;
            }
            Part::Buttons(buttons) => drawing.buttons(buttons),
            Part::Input(label) => {
                drawing.line(MARGIN + 8, &[(label.clone(), Style::Faint)]);
                drawing.rectangle(MARGIN + 8, 400, 22, "#ffffff", "#bbbbbb");
                drawing.y += 30;
            }
        }
    }
    let Drawing { body, y } = drawing;
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{FONT}\">\n<rect width=\"{WIDTH}\" \
         height=\"{height}\" fill=\"#ffffff\" stroke=\"#cccccc\"/>\n{body}</svg>\n"
    )
}

struct Drawing {
    body: String,
    y: usize,
}

impl Drawing {
    fn line(&mut self, x: usize, spans: &[Span]) {
        let y = self.y + FONT;
        // Writing to a string cannot fail.
        let _ = write!(self.body, "<text x=\"{x}\" y=\"{y}\" xml:space=\"preserve\">");
        for (text, style) in spans {
            let look = match style {
                Style::Plain => "",
                Style::Bold => " font-weight=\"bold\"",
                Style::Faint => " fill=\"#666666\"",
                Style::Warning => " fill=\"#a33000\" font-weight=\"bold\"",
            };
            let _ = write!(self.body, "<tspan{look}>{}</tspan>", escaped(text));
        }
        self.body.push_str("</text>\n");
        self.y += LINE;
    }

    fn rectangle(&mut self, x: usize, width: usize, height: usize, fill: &str, stroke: &str) {
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\" fill=\"{fill}\" stroke=\"{stroke}\"/>"
        );
    }

    fn buttons(&mut self, buttons: &[(String, bool)]) {
        self.y += 4;
        let mut x = MARGIN + 8;
        for (label, is_first) in buttons {
            let width = label.chars().count() * CHARACTER / 10 + 20;
            let (fill, stroke) = if *is_first { ("#dff0e4", "#2c7a4b") } else { ("#ffffff", "#999999") };
            self.rectangle(x, width, 24, fill, stroke);
            let (at, y) = (x + 10, self.y + 16);
            let _ = writeln!(self.body, "<text x=\"{at}\" y=\"{y}\">{}</text>", escaped(label));
            x += width + 8;
        }
        self.y += 32;
    }
}

/// Breaks a line where no more fits.
fn wrap(spans: &[Span], columns: usize) -> Vec<Vec<Span>> {
    let mut lines = vec![Vec::new()];
    let mut left = columns;
    for (text, style) in spans {
        let mut rest = text.as_str();
        while !rest.is_empty() {
            if left == 0 {
                lines.push(Vec::new());
                left = columns;
            }
            let end = rest.char_indices().nth(left).map_or(rest.len(), |(at, _)| at);
            let (part, after) = rest.split_at(end);
            left -= part.chars().count();
            lines.last_mut().unwrap().push((part.to_owned(), *style));
            rest = after;
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[test]
fn long_lines_go_on_below() {
    let line = [("abc".to_owned(), Style::Bold), ("defg".to_owned(), Style::Plain)];
    let expected =
        [vec![("abc".to_owned(), Style::Bold), ("d".to_owned(), Style::Plain)], vec![("efg".to_owned(), Style::Plain)]];
    assert_eq!(wrap(&line, 4), expected);
}
