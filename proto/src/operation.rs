//! What a client can ask for, and what it can be told.

/// Declares an enumeration of one byte on the wire: the only ways from the byte to the variant and back.
macro_rules! byte_enum {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $( $(#[doc = $meaning:literal])+ $variant:ident = $value:literal, )+ }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $( $(#[doc = $meaning])+ $variant = $value, )+ }

        impl $name {
            /// Every variant, in the order of its wire value.
            pub const ALL: &'static [$name] = &[ $( $name::$variant, )+ ];

            /// The variant with this wire value, if there is one.
            #[inline]
            pub const fn from_wire(value: u8) -> Option<$name> {
                match value { $( $value => Some($name::$variant), )+ _ => None }
            }

            /// The wire value.
            #[inline]
            pub const fn to_wire(self) -> u8 {
                self as u8
            }

            /// What it means, as the variant's documentation says it.
            pub const fn meaning(self) -> &'static str {
                match self { $( $name::$variant => concat!($($meaning),+).trim_ascii_start(), )+ }
            }
        }
    };
}

pub(crate) use byte_enum;

byte_enum! {
    /// What a request asks for.
    ///
    /// The layout of each request's body, after the key, is given in [`crate::request`].
    pub enum Operation {
        /// Open a session. The reply's `version` is the session's number.
        Register = 1,
        /// Read a key's value and version.
        Get = 2,
        /// Write a key, with a time-to-live if the flag says so; without one, an earlier time-to-live is dropped.
        Put = 3,
        /// Remove a key. `NotFound` when there was none.
        Delete = 4,
        /// Write a key if its version is the expected one; version 0 stands for "does not exist".
        CompareAndSet = 5,
        /// Add a signed 64-bit number to a key that holds a decimal number; a missing key counts as 0.
        Increment = 6,
        /// Whether a key exists; `Ok` with its version, or `NotFound`.
        Exists = 7,
        /// Read several keys of one shard.
        MultiGet = 8,
        /// Write several keys of one shard, all or nothing.
        MultiPut = 9,
        /// Read keys from a cursor on.
        Scan = 10,
        /// Give an existing key a time-to-live, or take it away.
        Expire = 11,
        /// Read the remaining time-to-live of a key.
        TimeToLive = 12,
        /// Answer at once, without touching the log or the store.
        Ping = 13,
        /// Describe this server's replica.
        Status = 14,
        /// Let another server become primary. Asked of the primary, and answered once it has handed over.
        MovePrimary = 15,
        /// Carry out a program: commands on keys of one shard, in order and as one. Not taken from clients: the Redis front
        /// door makes it.
        Transact = 16,
        /// Answer a program that only reads.
        Query = 17,
    }
}

impl Operation {
    /// Whether the operation changes the state machine and therefore goes through the log.
    #[inline]
    pub const fn is_logged(self) -> bool {
        matches!(
            self,
            Operation::Register
                | Operation::Put
                | Operation::Delete
                | Operation::CompareAndSet
                | Operation::Increment
                | Operation::MultiPut
                | Operation::Expire
                | Operation::Transact
        )
    }

    /// Whether the operation reads the state machine and is answered after a linearizable read round.
    #[inline]
    pub const fn is_read(self) -> bool {
        matches!(
            self,
            Operation::Get
                | Operation::Exists
                | Operation::MultiGet
                | Operation::Scan
                | Operation::TimeToLive
                | Operation::Query
        )
    }
}

byte_enum! {
    /// How a request ended.
    pub enum Status {
        /// Done.
        Ok = 0,
        /// The key does not exist. Nothing was changed.
        NotFound = 1,
        /// The key's version is not the expected one; `version` is the present one, 0 if the key does not exist.
        VersionMismatch = 2,
        /// The value is not a decimal 64-bit number, or the sum leaves its range. Nothing was changed.
        NotANumber = 3,
        /// This server is not the primary. The body is the view (8 bytes). Nothing was changed.
        NotPrimary = 16,
        /// A key of the request belongs to another shard, or its keys belong to several. Nothing was changed.
        WrongShard = 17,
        /// The server is at one of its bounds. Nothing was changed; try again later.
        Busy = 18,
        /// The session is not known: never registered, or evicted because too many others were used since. Whether an
        /// earlier attempt of the same request was executed is not known.
        UnknownSession = 19,
        /// The sequence is older than the session's window. Whether it was executed once is not known any more.
        StaleSequence = 20,
        /// The frame is malformed, or asks for more than a reply can hold; the body says how. When `sequence` is 0 the
        /// frame could not be made sense of, and the connection is closed after this reply.
        BadRequest = 21,
        /// The server is stopping, or has not finished starting. Nothing was changed.
        Unavailable = 22,
    }
}

impl Status {
    /// Whether the request was carried out, or found nothing to do, by the state machine; false for refusals.
    pub const fn is_answer(self) -> bool {
        (self as u8) < 16
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn wire_values_stand_for_one_variant_each() {
        let operations: BTreeSet<_> = (0..=u8::MAX).filter_map(Operation::from_wire).collect();
        assert_eq!(operations.len(), Operation::ALL.len());
        for &operation in Operation::ALL {
            assert_eq!(Operation::from_wire(operation.to_wire()), Some(operation));
        }
        let statuses: BTreeSet<_> = (0..=u8::MAX).filter_map(Status::from_wire).collect();
        assert_eq!(statuses.len(), Status::ALL.len());
        for &status in Status::ALL {
            assert_eq!(Status::from_wire(status.to_wire()), Some(status));
        }
    }

    #[test]
    fn an_operation_is_logged_or_read_or_neither() {
        for &operation in Operation::ALL {
            assert!(!(operation.is_logged() && operation.is_read()), "{operation:?}");
            let is_neither = matches!(operation, Operation::Ping | Operation::Status | Operation::MovePrimary);
            assert_eq!(!operation.is_logged() && !operation.is_read(), is_neither, "{operation:?}");
        }
    }

    #[test]
    fn refusals_are_told_from_answers_by_their_value() {
        let answers = [Status::Ok, Status::NotFound, Status::VersionMismatch, Status::NotANumber];
        for &status in Status::ALL {
            assert_eq!(status.is_answer(), answers.contains(&status), "{status:?}");
        }
    }

    #[test]
    fn a_meaning_is_the_documentation_in_one_line() {
        assert_eq!(Operation::Delete.meaning(), "Remove a key. `NotFound` when there was none.");
        for meaning in Operation::ALL.iter().map(|o| o.meaning()).chain(Status::ALL.iter().map(|s| s.meaning())) {
            assert!(meaning.ends_with('.') || meaning.contains(". "), "{meaning}");
            assert!(!meaning.contains(['\n', '|']) && !meaning.starts_with(' '), "{meaning}");
        }
    }
}
