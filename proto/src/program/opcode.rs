//! What the commands of a program can be, and what each looks like.

use crate::operation::byte_enum;

byte_enum! {
    /// What one command of a program does.
    ///
    /// The semantics are those of the Redis command that is named, to the letter.
    pub enum Opcode {
        /// WATCH's half in EXEC: unless the key has this version and expiry (0 and 0: does not exist), the whole program does nothing and its only result is `Aborted`. Stands before all other commands.
        Check = 1,
        /// The value (GET).
        Get = 2,
        /// The values of several keys, as an array (MGET).
        MultiGet = 3,
        /// Size of the value in bytes, 0 without one (STRLEN).
        Length = 4,
        /// A part of the value; indexes count from the end when negative (GETRANGE).
        GetRange = 5,
        /// How many of the keys exist; a key given twice counts twice (EXISTS, TOUCH).
        Exists = 6,
        /// The word `string` or `none` (TYPE).
        Type = 7,
        /// Time to live or time of expiry, -1 without one, -2 without the key (PTTL, TTL, PEXPIRETIME, EXPIRETIME).
        TimeToLive = 8,
        /// How Redis would hold the value: `int`, `embstr` or `raw` (OBJECT ENCODING).
        Encoding = 9,
        /// Seconds since the value was written, as far as this process knows (OBJECT IDLETIME).
        IdleTime = 10,
        /// Memory that key and value take, in bytes (MEMORY USAGE).
        MemoryUsage = 11,
        /// Version and expiry of the key, as an array of two numbers, for a later check (WATCH).
        Stamp = 12,
        /// A key out of all, chosen by the number that is given (RANDOMKEY).
        RandomKey = 13,
        /// The keys that match a pattern (KEYS).
        Keys = 14,
        /// Keys from a cursor on: the next cursor as text, and an array of keys (SCAN).
        Scan = 15,
        /// Number of keys (DBSIZE).
        KeyCount = 16,
        /// Number of keys, of keys that expire, and bytes of all entries, as an array (INFO keyspace).
        Keyspace = 17,
        /// Number of keys in a slot (CLUSTER COUNTKEYSINSLOT).
        SlotKeyCount = 18,
        /// The first keys of a slot (CLUSTER GETKEYSINSLOT).
        SlotKeys = 19,
        /// Nil without the key, and else this error: for a command whose arguments are wrong, but which looks at its key first (GETEX).
        Refuse = 20,
        /// Write a value; an expiry is dropped (SET without options).
        Set = 32,
        /// Write a value, with conditions and an expiry (SET with options, SETNX, SETEX, PSETEX, GETSET).
        SetWith = 33,
        /// Write several values, all or nothing (MSET, MSETNX).
        MultiSet = 34,
        /// Add to the end of a value (APPEND).
        Append = 35,
        /// Write over a part of a value (SETRANGE).
        SetRange = 36,
        /// Add a whole number (INCR, DECR, INCRBY, DECRBY).
        Increment = 37,
        /// Add a number that is given as text, in x87 extended precision (INCRBYFLOAT).
        IncrementFloat = 38,
        /// The value, which is removed (GETDEL).
        GetDelete = 39,
        /// The value, whose expiry is changed (GETEX with options).
        GetExpire = 40,
        /// Remove keys; the answer is how many there were (DEL, UNLINK).
        Delete = 41,
        /// Remove a key if it has this value (DELIFEQ).
        DeleteIfEqual = 42,
        /// Set when a key expires (EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT).
        Expire = 43,
        /// Take an expiry away (PERSIST).
        Persist = 44,
        /// Give a key another name (RENAME, RENAMENX).
        Rename = 45,
        /// Copy value and expiry to another key (COPY).
        Copy = 46,
        /// Remove all keys of the shard (FLUSHDB, FLUSHALL).
        Flush = 47,
    }
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A key. May be empty.
    Key,
    /// A value, or text that is compared with one, up to [`crate::limits::VALUE_SIZE_MAX`].
    Value,
    /// A number, signed or not, of 8 bytes.
    Number,
    /// A pattern, or a number as text, of any size.
    Text,
}

/// What the arguments of an opcode look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The arguments in order.
    pub kinds: &'static [Kind],
    /// Whether they may be given again and again.
    pub is_repeated: bool,
}

/// Flags of the opcodes. Each opcode takes a few of them ([`Opcode::form`]), and some bits mean different things to different
/// opcodes.
pub mod flags {
    /// Only if the (target) key does not exist: SetWith, MultiSet, Rename. Expire: only if it has no expiry.
    pub const NX: u8 = 1;
    /// SetWith: only if the key exists. Expire: only if it has an expiry.
    pub const XX: u8 = 2;
    /// SetWith: only if the key has the value in the last argument.
    pub const IF_EQUAL: u8 = 4;
    /// Expire: only if the new expiry is later than the present one; none is later than any.
    pub const GT: u8 = 4;
    /// SetWith: the answer is the value before.
    pub const GET: u8 = 8;
    /// Expire: only if the new expiry is earlier than the present one; none is later than any.
    pub const LT: u8 = 8;
    /// SetWith: the answer is 1 or 0 (SETNX).
    pub const COUNT: u8 = 16;
    /// SetWith: an expiry stays.
    pub const KEEP_TTL: u8 = 32;
    /// GetExpire: an expiry is taken away.
    pub const PERSIST: u8 = 32;
    /// The number is a time to live in ms: SetWith, GetExpire, Expire.
    pub const RELATIVE: u8 = 64;
    /// The number is a time of expiry, in ms since 1970: SetWith, GetExpire, Expire. TimeToLive: answer such a time.
    pub const ABSOLUTE: u8 = 128;
    /// TimeToLive: answer in seconds, rounded to the nearest.
    pub const SECONDS: u8 = 1;
    /// Copy: an existing target is replaced.
    pub const REPLACE: u8 = 1;
    /// Scan: the pattern counts. Without it every key matches.
    pub const MATCH: u8 = 1;
    /// Scan: no key is returned (a TYPE that no key has).
    pub const NONE: u8 = 2;
}

impl Opcode {
    /// Whether the command may change something.
    #[inline]
    pub const fn is_write(self) -> bool {
        self as u8 >= Opcode::Set as u8
    }

    /// Whether the command may look at all keys of the shard.
    #[inline]
    pub const fn is_walk(self) -> bool {
        matches!(
            self,
            Opcode::RandomKey
                | Opcode::Keys
                | Opcode::Scan
                | Opcode::KeyCount
                | Opcode::Keyspace
                | Opcode::SlotKeyCount
                | Opcode::SlotKeys
        )
    }

    /// What its arguments look like.
    pub const fn form(self) -> &'static Form {
        use Kind::{Key, Number, Text, Value};
        const fn once(kinds: &'static [Kind]) -> Form {
            Form { kinds, is_repeated: false }
        }
        const fn repeated(kinds: &'static [Kind]) -> Form {
            Form { kinds, is_repeated: true }
        }
        match self {
            Opcode::KeyCount | Opcode::Keyspace | Opcode::Flush => const { &once(&[]) },
            Opcode::Get
            | Opcode::Length
            | Opcode::Type
            | Opcode::TimeToLive
            | Opcode::Encoding
            | Opcode::IdleTime
            | Opcode::MemoryUsage
            | Opcode::Stamp
            | Opcode::GetDelete
            | Opcode::Persist => const { &once(&[Key]) },
            Opcode::MultiGet | Opcode::Exists | Opcode::Delete => const { &repeated(&[Key]) },
            Opcode::MultiSet => const { &repeated(&[Key, Value]) },
            Opcode::RandomKey | Opcode::SlotKeyCount => const { &once(&[Number]) },
            Opcode::SlotKeys => const { &once(&[Number, Number]) },
            Opcode::Keys => const { &once(&[Text]) },
            Opcode::Scan => const { &once(&[Number, Number, Text]) },
            Opcode::Refuse | Opcode::Increment | Opcode::GetExpire | Opcode::Expire => const { &once(&[Key, Number]) },
            Opcode::Check | Opcode::GetRange => const { &once(&[Key, Number, Number]) },
            Opcode::Set | Opcode::Append | Opcode::DeleteIfEqual => const { &once(&[Key, Value]) },
            Opcode::SetWith => const { &once(&[Key, Value, Number, Value]) },
            Opcode::SetRange => const { &once(&[Key, Number, Value]) },
            Opcode::IncrementFloat => const { &once(&[Key, Text]) },
            Opcode::Rename | Opcode::Copy => const { &once(&[Key, Key]) },
        }
    }

    /// The flags that it takes, with their names.
    pub const fn flag_names(self) -> &'static [(u8, &'static str)] {
        use flags::*;
        match self {
            Opcode::TimeToLive => &[(SECONDS, "SECONDS"), (ABSOLUTE, "ABSOLUTE")],
            Opcode::Scan => &[(MATCH, "MATCH"), (NONE, "NONE")],
            Opcode::SetWith => &[
                (NX, "NX"),
                (XX, "XX"),
                (IF_EQUAL, "IF_EQUAL"),
                (GET, "GET"),
                (COUNT, "COUNT"),
                (KEEP_TTL, "KEEP_TTL"),
                (RELATIVE, "RELATIVE"),
                (ABSOLUTE, "ABSOLUTE"),
            ],
            Opcode::MultiSet | Opcode::Rename => &[(NX, "NX")],
            Opcode::GetExpire => &[(PERSIST, "PERSIST"), (RELATIVE, "RELATIVE"), (ABSOLUTE, "ABSOLUTE")],
            Opcode::Expire => {
                &[(NX, "NX"), (XX, "XX"), (GT, "GT"), (LT, "LT"), (RELATIVE, "RELATIVE"), (ABSOLUTE, "ABSOLUTE")]
            }
            Opcode::Copy => &[(REPLACE, "REPLACE")],
            _ => &[],
        }
    }

    /// All flags that it takes.
    const fn flags(self) -> u8 {
        let names = self.flag_names();
        let (mut all, mut index) = (0, 0);
        while index < names.len() {
            all |= names[index].0;
            index += 1;
        }
        all
    }

    /// Whether these flags of the opcode go together.
    pub(crate) const fn accepts_flags(self, flags: u8) -> bool {
        if flags & !self.flags() != 0 {
            return false;
        }
        let conditions = (flags & (flags::NX | flags::XX | flags::IF_EQUAL)).count_ones();
        let expiries = (flags & (flags::KEEP_TTL | flags::RELATIVE | flags::ABSOLUTE)).count_ones();
        match self {
            Opcode::SetWith => {
                let answers = (flags & (flags::GET | flags::COUNT)).count_ones();
                conditions <= 1 && expiries <= 1 && answers <= 1
            }
            Opcode::GetExpire | Opcode::Expire => expiries == 1,
            _ => true,
        }
    }
}
