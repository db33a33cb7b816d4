//! Which addresses belong to which file, from `/proc/self/maps` (proc_pid_maps(5)).

use std::fs;

/// One range of addresses with code from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in the file it begins.
    pub(super) offset: u64,
    pub(super) file: String,
}

/// All of them; the program's own are the first file's.
#[derive(Clone, Debug, Default)]
pub(super) struct Maps(Vec<Map>);

impl Maps {
    /// Empty where there is no `/proc`.
    pub(super) fn of_this_process() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(code).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Map> {
        self.0.iter()
    }

    /// The number of the range that an address lies in, from 1 on; 0 is none.
    pub(super) fn number(&self, address: u64) -> u64 {
        let found = self
            .0
            .iter()
            .position(|map| (map.start..map.end).contains(&address));
        found.map_or(0, |n| n as u64 + 1)
    }

    /// Where in a stack the code begins that was interrupted. Before it come functions of the program that took the stack
    /// down, and the one of libc to which they return.
    pub(super) fn interrupted(&self, stack: &[u64]) -> usize {
        let Some(program) = self.0.first() else { return 0 };
        let is_ours = |address: &u64| {
            let map = self.0.get((self.number(*address) as usize).wrapping_sub(1));
            map.is_some_and(|map| map.file == program.file)
        };
        let handler = stack.iter().take_while(|address| is_ours(address)).count();
        // A stack that shows no such border is shown whole.
        if handler == 0 || handler + 1 >= stack.len() {
            0
        } else {
            handler + 1
        }
    }
}

/// A line about code: `START-END r-xp OFFSET DEV INODE FILE`.
fn code(line: &str) -> Option<Map> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    if !words.next()?.contains('x') {
        return None;
    }
    let offset = words.next()?;
    let file = words.nth(2)?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Map {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        file: file.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        1000-2000 r--p 00000000 fe:01 7 /bin/setpoint\n\
        2000-9000 r-xp 00001000 fe:01 7 /bin/setpoint\n\
        a000-b000 rw-p 00000000 00:00 0\n\
        c000-d000 r-xp 00002000 fe:01 8 /lib/libc.so.6\n";

    #[test]
    fn code_is_found_with_its_file_and_place() {
        let maps = Maps::parse(TEXT);
        assert_eq!(maps.0.len(), 2);
        assert_eq!((maps.0[0].offset, maps.0[1].start), (0x1000, 0xc000));
        assert_eq!(
            [0x1fff, 0x2000, 0x8fff, 0xcabc, 0xd000].map(|at| maps.number(at)),
            [0, 1, 1, 2, 0]
        );
    }

    #[test]
    fn the_signals_own_frames_are_left_out() {
        let maps = Maps::parse(TEXT);
        // Handler, handler, libc's trampoline, then the code that ran.
        assert_eq!(maps.interrupted(&[0x2001, 0x2002, 0xc001, 0x2003, 0x2004]), 3);
        // It ran in libc itself.
        assert_eq!(maps.interrupted(&[0x2001, 0xc001, 0xc002, 0x2003]), 2);
        // No border to be seen.
        assert_eq!(maps.interrupted(&[0x2001, 0x2002]), 0);
        assert_eq!(maps.interrupted(&[]), 0);
    }
}
