//! The terminal itself: taken over on entry, and given back on every way out.

use std::{
    io::{self, Write as _},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

use crossterm::{
    QueueableCommand as _, cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    style::{Attribute, Print, SetAttribute},
    terminal,
};

use super::{
    draw::{Look, Screen},
    model::Key,
};

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while the view has it. Dropping it, or a panic anywhere, gives it back.
pub(super) struct TakenScreen(());

impl TakenScreen {
    /// Takes the terminal over.
    pub(super) fn take() -> io::Result<Self> {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            // First the terminal, so that the message can be read.
            give_back();
            hook(information);
        }));
        TAKEN.store(true, Ordering::SeqCst);
        let taken = Self(());
        terminal::enable_raw_mode()?;
        let mut out = io::stdout();
        out.queue(terminal::EnterAlternateScreen)?.queue(cursor::Hide)?.queue(event::EnableBracketedPaste)?.flush()?;
        Ok(taken)
    }

    /// Shows a screen.
    pub(super) fn show(&mut self, screen: &Screen) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            return Err(io::Error::other("a part of the view failed and gave the terminal back"));
        }
        // Built whole and written at once, so that it does not flicker.
        let mut out = Vec::with_capacity(8 * 1024);
        out.queue(terminal::BeginSynchronizedUpdate)?;
        for (row, line) in (0_u16..).zip(&screen.rows) {
            out.queue(cursor::MoveTo(0, row))?;
            match line.look {
                Look::Plain => {}
                Look::Bold => drop(out.queue(SetAttribute(Attribute::Bold))?),
                Look::Reverse => drop(out.queue(SetAttribute(Attribute::Reverse))?),
            }
            out.queue(Print(&line.text))?.queue(SetAttribute(Attribute::Reset))?;
            out.queue(terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        out.queue(terminal::Clear(terminal::ClearType::FromCursorDown))?.queue(terminal::EndSynchronizedUpdate)?;
        let mut stdout = io::stdout();
        stdout.write_all(&out)?;
        stdout.flush()
    }
}

impl Drop for TakenScreen {
    fn drop(&mut self) {
        give_back();
        // Keeps a later panic from writing to a terminal that is not ours any more.
        drop(panic::take_hook());
    }
}

/// Undoes everything, once. A terminal that is gone needs nothing undone.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = Vec::new();
    let _ = out.queue(event::DisableBracketedPaste);
    let _ = out.queue(cursor::Show);
    let _ = out.queue(terminal::LeaveAlternateScreen);
    let mut stdout = io::stdout();
    let _ = stdout.write_all(&out).and_then(|()| stdout.flush());
    let _ = terminal::disable_raw_mode();
}

/// What happened at the keyboard.
pub(super) enum Input {
    Key(Key),
    /// The screen has another size.
    Resize,
}

/// Waits for what the view cares about.
pub(super) fn read_input() -> io::Result<Input> {
    loop {
        match event::read()? {
            Event::Resize(..) => return Ok(Input::Resize),
            Event::Paste(text) => return Ok(Input::Key(Key::Paste(text))),
            Event::Key(key) => {
                if let Some(key) = translate(key) {
                    return Ok(Input::Key(key));
                }
            }
            _ => {}
        }
    }
}

fn translate(KeyEvent { code, modifiers, kind, .. }: KeyEvent) -> Option<Key> {
    if kind == KeyEventKind::Release {
        return None;
    }
    if modifiers.contains(KeyModifiers::CONTROL) {
        return match code {
            KeyCode::Char('c' | 'd') => Some(Key::Interrupt),
            KeyCode::Char('u') => Some(Key::Clear),
            KeyCode::Char('h') => Some(Key::Backspace),
            _ => None,
        };
    }
    // Alt and the like are no letters: Alt-a must not approve.
    if !modifiers.difference(KeyModifiers::SHIFT).is_empty() {
        return None;
    }
    Some(match code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_letters_are_letters() {
        let key = |code, modifiers| translate(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('a'), KeyModifiers::NONE), Some(Key::Char('a')));
        assert_eq!(key(KeyCode::Char('A'), KeyModifiers::SHIFT), Some(Key::Char('A')));
        assert_eq!(key(KeyCode::Char('a'), KeyModifiers::ALT), None);
        assert_eq!(key(KeyCode::Char('a'), KeyModifiers::CONTROL), None);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Interrupt));
    }
}
