//! The one writer to stdout.

use std::{
    fmt,
    io::{self, BufWriter, Write},
};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Where output goes, and in which form.
pub struct Output {
    writer: Box<dyn Write + Send>,
    json: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

impl Output {
    /// To stdout, as text or as JSON.
    pub fn stdout(json: bool) -> Self {
        Self { writer: Box::new(BufWriter::new(io::stdout())), json }
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a line of text.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.writer, "{line}").map_err(Failure::output)
    }

    /// Writes an object as a line of JSON.
    pub fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(object).map_err(|error| Failure::new(Exit::Failure, error))?;
        self.line(json)
    }

    /// Sends on what is still buffered.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(Failure::output)
    }
}
