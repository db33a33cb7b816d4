//! Runs the programs of a project: started with the plane, restarted when they fail, stopped with it.
//!
//! Each program gets a process group of its own, so that stopping it reaches what it started (a shell, `cargo run`).
//! When `up` itself is killed, the program's guard ends the group (`guard`). Its group is noted in the data directory
//! as well: should both be killed, the next `up` ends what was left behind.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use setpoint_base::{Stop, TaskGroup};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::guard::{self, Groups};
use super::policy::{Next, Policy, Restart};
use super::terminal::{Line, Terminal};

/// How long a program may take to end after SIGTERM; then SIGKILL.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long to read what a program left in its pipes; something it started may hold them open.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// Longest line of output that is shown, in bytes; the rest of it is cut off.
const LINE_BYTES_MAX: usize = 8 << 10;

/// A program to run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: PathBuf,
    pub(crate) restart: Restart,
}

/// Runs the program until `stop`, or until its policy leaves it alone. `notes` is where its process group is noted.
pub(crate) async fn supervise(
    program: Program,
    notes: PathBuf,
    groups: Groups,
    terminal: Terminal,
    stop: Stop,
) {
    let note = notes.join(format!("{}.pid", program.name));
    end_leftover(&note, &program.name, &terminal).await;
    let mut policy = Policy::new(program.restart, u64::from(std::process::id()));
    while !stop.is_cancelled() {
        let started = Instant::now();
        let success = match run_once(&program, &note, &groups, &terminal, &stop).await {
            Ok(Some(status)) => {
                terminal.note(format!("{} ended: {status}", program.name)).await;
                status.success()
            }
            Ok(None) => break,
            Err(error) => {
                terminal.problem(cannot_start(&program, &error)).await;
                false
            }
        };
        match policy.ended(success, started.elapsed()) {
            Next::Leave => {
                let (name, restart) = (&program.name, program.restart.word());
                terminal
                    .note(format!("{name} is not started again (restart: {restart})"))
                    .await;
                break;
            }
            Next::StartAfter(wait) => {
                terminal
                    .note(format!(
                        "{} starts again in {:.1} s",
                        program.name,
                        wait.as_secs_f64()
                    ))
                    .await;
                tokio::select! {
                    () = tokio::time::sleep(wait) => (),
                    () = stop.cancelled() => (),
                }
            }
        }
    }
    let _ = std::fs::remove_file(&note);
}

fn cannot_start(program: &Program, error: &io::Error) -> String {
    let command = program.command.first().map(String::as_str).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound if program.dir.is_dir() => {
            format!(
                "{}: {command} is not on the PATH: install it or change `command`",
                program.name
            )
        }
        io::ErrorKind::NotFound => {
            format!(
                "{}: its directory {} does not exist",
                program.name,
                program.dir.display()
            )
        }
        _ => format!("{}: start {command}: {error}", program.name),
    }
}

/// One life of the program; `None` when it was stopped.
async fn run_once(
    program: &Program,
    note: &Path,
    groups: &Groups,
    terminal: &Terminal,
    stop: &Stop,
) -> io::Result<Option<ExitStatus>> {
    let mut child = start(program)?;
    let Some(group) = group_of(&child) else {
        return child.wait().await.map(Some);
    };
    let _entry = groups.enter(group);
    let guard = guard::start(group);
    if let Err(error) = write_note(note, group) {
        tracing::warn!(%error, note = %note.display(), "note a program's process group");
    }
    let pumps = TaskGroup::new(&Stop::new());
    for pipe in [
        child.stdout.take().map(Pipe::Out),
        child.stderr.take().map(Pipe::Err),
    ]
    .into_iter()
    .flatten()
    {
        let (terminal, name) = (terminal.clone(), program.name.clone());
        let ended = pumps.stop().clone();
        pumps.spawn(async move {
            let pump = async {
                match pipe {
                    Pipe::Out(pipe) => pump(pipe, &name, &terminal).await,
                    Pipe::Err(pipe) => pump(pipe, &name, &terminal).await,
                }
            };
            tokio::select! {
                () = pump => (),
                () = async { ended.cancelled().await; tokio::time::sleep(DRAIN_GRACE).await } => (),
            }
        });
    }
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        () = stop.cancelled() => {
            end(group, async { child.wait().await.map(drop) }).await?;
            None
        }
    };
    // Whatever the program started and left behind goes with it.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    guard::dismiss(guard).await;
    pumps.shutdown(2 * DRAIN_GRACE).await;
    Ok(status)
}

enum Pipe {
    Out(tokio::process::ChildStdout),
    Err(tokio::process::ChildStderr),
}

fn start(program: &Program) -> io::Result<Child> {
    let Some((command, args)) = program.command.split_first() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the command is empty",
        ));
    };
    let mut process = Command::new(command);
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if is_cargos_own(&name) {
            process.env_remove(name);
        }
    }
    process
        .args(args)
        .envs(&program.env)
        .current_dir(&program.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Whether `cargo run` sets the variable for the program that it starts: it describes *our* package. A
/// program that is itself started by cargo would take it for its own, and build scripts that look at it
/// would run again and again.
fn is_cargos_own(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    name == "CARGO" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn group_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

/// Asks the group to end, waits, and insists.
async fn end(group: Pid, ended: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    tokio::pin!(ended);
    match tokio::time::timeout(STOP_GRACE, &mut ended).await {
        Ok(result) => result,
        Err(_) => {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            ended.await
        }
    }
}

async fn pump(pipe: impl AsyncRead + Unpin, name: &str, terminal: &Terminal) {
    let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, pipe);
    let mut line = Vec::new();
    loop {
        let (consumed, complete) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                // A carriage return alone (a progress bar) ends a line too.
                let end = bytes.iter().position(|&byte| byte == b'\n' || byte == b'\r');
                let part = &bytes[..end.unwrap_or(bytes.len())];
                let room = LINE_BYTES_MAX - line.len();
                line.extend_from_slice(&part[..part.len().min(room)]);
                (end.map_or(bytes.len(), |end| end + 1), end.is_some())
            }
        };
        reader.consume(consumed);
        if complete {
            output(&mut line, name, terminal).await;
        }
    }
    output(&mut line, name, terminal).await;
}

async fn output(line: &mut Vec<u8>, name: &str, terminal: &Terminal) {
    if line.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(line).into_owned();
    line.clear();
    terminal
        .show(Line::Output {
            program: name.to_owned(),
            text,
        })
        .await;
}

/// Ends the group that a killed `up` left running, if it is still the same one.
async fn end_leftover(note: &Path, name: &str, terminal: &Terminal) {
    let Ok(text) = std::fs::read_to_string(note) else {
        return;
    };
    let Some((pid, started)) = text.trim().split_once(' ') else {
        return;
    };
    let Some(group) = pid.parse().ok().and_then(Pid::from_raw) else {
        return;
    };
    // A pid is reused; a pid with its start time is not.
    if start_time(group).as_deref() != Some(started) {
        return;
    }
    terminal
        .note(format!("{name} is still running from before: ending it"))
        .await;
    let gone = async {
        while start_time(group).as_deref() == Some(started) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    // The process is not our child: its parent takes its exit status, so the wait has to end by itself.
    let _ = tokio::time::timeout(2 * STOP_GRACE, end(group, gone)).await;
}

fn write_note(note: &Path, group: Pid) -> io::Result<()> {
    if let Some(dir) = note.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let started = start_time(group).unwrap_or_default();
    std::fs::write(note, format!("{} {started}\n", group.as_raw_nonzero()))
}

/// When the process started, in clock ticks since boot, as text; `None` when it is gone or there is no `/proc`.
fn start_time(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie has ended; only nobody has asked for its status yet.
    (fields.next()? != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envtest::TempDir;
    use tokio::sync::mpsc;

    struct Run {
        stop: Stop,
        tasks: TaskGroup,
        lines: mpsc::Receiver<Line>,
        dir: TempDir,
    }

    /// Supervises a shell script in a directory of its own.
    fn run(script: &str, restart: Restart) -> Run {
        run_command(&["sh", "-c", script], restart, TempDir::new().unwrap())
    }

    fn run_command(command: &[&str], restart: Restart, dir: TempDir) -> Run {
        let (terminal, lines) = Terminal::captured();
        let (stop, tasks) = (Stop::new(), TaskGroup::new(&Stop::new()));
        let program = Program {
            name: "web".to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
            dir: dir.path().to_owned(),
            restart,
        };
        tasks.spawn(supervise(
            program,
            dir.path().join("run"),
            Groups::default(),
            terminal,
            stop.clone(),
        ));
        Run {
            stop,
            tasks,
            lines,
            dir,
        }
    }

    impl Run {
        /// The next line as text.
        async fn line(&mut self) -> String {
            let line = tokio::time::timeout(Duration::from_secs(20), self.lines.recv()).await;
            match line.expect("a line in time").expect("a line") {
                Line::Output { text, .. } => format!("| {text}"),
                Line::Note { text } | Line::Problem { text } => text,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_cargo_says_of_our_own_package_is_not_handed_on() {
        let own = [
            "CARGO",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "CARGO_HOME",
            "PATH",
        ];
        assert_eq!(own.map(is_cargos_own), [true, true, true, false, false, false]);
    }

    #[tokio::test]
    async fn a_program_gets_its_environment_and_its_lines_are_shown() {
        let mut web = run("echo $GREETING; printf 'no end'; exit 0", Restart::OnFailure);
        assert_eq!(web.line().await, "| hello");
        assert_eq!(web.line().await, "| no end");
        assert_eq!(web.line().await, "web ended: exit status: 0");
        assert_eq!(web.line().await, "web is not started again (restart: on-failure)");
        assert_eq!(web.tasks.shutdown(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn a_program_that_fails_is_started_again() {
        let mut web = run(
            "echo x >> lives; wc -l < lives; test $(wc -l < lives) -ge 2",
            Restart::OnFailure,
        );
        let mut lines = Vec::new();
        while !lines.iter().any(|line: &String| line.contains("exit status: 0")) {
            lines.push(web.line().await);
        }
        assert!(lines.contains(&"| 2".to_owned()), "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains("starts again in")),
            "{lines:?}"
        );
    }

    #[tokio::test]
    async fn stopping_ends_what_the_program_started_too() {
        let mut web = run("sleep 1000 & echo $!; wait", Restart::Always);
        let child = web.line().await;
        let child = Pid::from_raw(child.trim_start_matches("| ").parse().unwrap()).unwrap();
        assert!(start_time(child).is_some());
        web.stop.cancel();
        assert_eq!(web.tasks.shutdown(Duration::from_secs(10)).await, 0);
        let gone = async {
            while start_time(child).is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("the child ended");
        assert!(!web.dir.path().join("run/web.pid").exists());
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named_with_a_remedy() {
        let mut web = run_command(&["no-such-program-here"], Restart::Never, TempDir::new().unwrap());
        assert_eq!(
            web.line().await,
            "web: no-such-program-here is not on the PATH: install it or change `command`"
        );
    }

    #[tokio::test]
    async fn what_a_killed_supervisor_left_behind_is_ended_first() {
        let dir = TempDir::new().unwrap();
        let old = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let group = group_of(&old).unwrap();
        write_note(&dir.path().join("run/web.pid"), group).unwrap();
        let mut web = run_command(&["echo", "new"], Restart::Never, dir);
        assert_eq!(web.line().await, "web is still running from before: ending it");
        assert_eq!(web.line().await, "| new");
        assert_eq!(start_time(group), None);
    }
}
