//! Where log lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tracing_subscriber::fmt::MakeWriter;

/// A place for log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, which is made if absent and only appended to.
    File(PathBuf),
}

/// All places, opened. Each line goes to every one of them in one write.
#[derive(Clone)]
pub(crate) struct Outputs(Arc<[Opened]>);

enum Opened {
    Stderr,
    Stdout,
    File(File),
}

impl Outputs {
    /// Opens the files; standard error when there is no place.
    ///
    /// # Errors
    /// The file that cannot be opened, and why.
    pub(crate) fn open(outputs: &[Output]) -> Result<Self, (PathBuf, io::Error)> {
        let open = |output: &Output| {
            Ok(match output {
                Output::Stderr => Opened::Stderr,
                Output::Stdout => Opened::Stdout,
                Output::File(path) => {
                    let file = OpenOptions::new().create(true).append(true).open(path);
                    Opened::File(file.map_err(|error| (path.clone(), error))?)
                }
            })
        };
        if outputs.is_empty() {
            return Ok(Self(Arc::new([Opened::Stderr])));
        }
        Ok(Self(outputs.iter().map(open).collect::<Result<_, _>>()?))
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Outputs {
    /// One line. A place that takes no more (a full disk, a closed pipe) does not keep it from the others.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut result = Ok(line.len());
        for output in self.0.iter() {
            let written = match output {
                Opened::Stderr => io::stderr().lock().write_all(line),
                Opened::Stdout => io::stdout().lock().write_all(line),
                Opened::File(file) => (&mut &*file).write_all(line),
            };
            if let Err(error) = written {
                result = Err(error);
            }
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
