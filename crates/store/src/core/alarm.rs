//! Alarms: facts about a member that change what it accepts. As keys of a side table they are written as etcd does,
//! as `etcdserverpb.AlarmMember`: field 1 the member, field 2 the kind, zeros left out.

use super::codec::{Reader, put_varint};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// There is no room: what makes the store grow is refused.
    NoSpace,
    /// The data is not to be trusted: nothing is served.
    Corrupt,
}

/// A raised alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// The member it is about.
    pub member: u64,
    /// What is wrong with it.
    pub kind: AlarmKind,
}

impl AlarmKind {
    /// Its number on the wire.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    /// The kind with this number on the wire.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        [Self::NoSpace, Self::Corrupt]
            .into_iter()
            .find(|kind| kind.code() == code)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

impl Alarm {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut key = Vec::new();
        if self.member != 0 {
            key.push(1 << 3);
            put_varint(&mut key, self.member);
        }
        key.push(2 << 3);
        put_varint(&mut key, u64::from(self.kind.code().unsigned_abs()));
        key
    }

    /// `None` for what is no alarm, or one of a kind that is not known here.
    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        let mut rest = Reader { bytes: key, at: 0 };
        let (mut member, mut code) = (0, 0);
        while rest.at < key.len() {
            match rest.byte()? {
                0x08 => member = rest.varint()?,
                0x10 => code = rest.varint()?,
                _ => return None,
            }
        }
        let kind = AlarmKind::of_code(i32::try_from(code).ok()?)?;
        Some(Self { member, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_written_as_etcd_does_and_reads_back() {
        for (member, kind, bytes) in [
            (300, AlarmKind::NoSpace, &[8, 0xac, 2, 16, 1][..]),
            (0, AlarmKind::Corrupt, &[16, 2]),
        ] {
            let alarm = Alarm { member, kind };
            assert_eq!(alarm.encode(), bytes);
            assert_eq!(Alarm::decode(bytes), Some(alarm));
        }
        for bytes in [&[][..], &[8, 1], &[16, 3], &[16], &[24, 1, 16, 1], &[8, 0xff]] {
            assert_eq!(Alarm::decode(bytes), None);
        }
    }
}
