//! What clients of the front door do.

use crate::dice::Dice;

/// Declares the kinds of commands.
macro_rules! commands {
    ( $( $(#[doc = $what:literal])+ $variant:ident, )+ ) => {
        /// A kind of command, or a few that are alike.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RedisCommand { $( $(#[doc = $what])+ $variant, )+ }

        impl RedisCommand {
            /// Every kind. From [`RedisCommand::SetExpiring`] on they have to do with expiry.
            pub const ALL: [RedisCommand; 19] = [ $( RedisCommand::$variant, )+ ];
        }
    };
}

commands! {
    /// GET.
    Get,
    /// MGET, STRLEN, GETRANGE, EXISTS.
    Read,
    /// What WATCH asks: version and expiry.
    Stamp,
    /// SET without options.
    Put,
    /// SET with NX, XX, IFEQ, GET, KEEPTTL; SETNX.
    SetWith,
    /// MSET, MSETNX.
    MultiSet,
    /// APPEND.
    Append,
    /// SETRANGE.
    SetRange,
    /// INCRBY.
    Increment,
    /// INCRBYFLOAT.
    IncrementFloat,
    /// GETDEL.
    GetDelete,
    /// DEL.
    Delete,
    /// DELIFEQ.
    DeleteIfEqual,
    /// RENAME, RENAMENX, COPY.
    Move,
    /// SET with PX or PXAT.
    SetExpiring,
    /// PEXPIRE, PEXPIREAT, with NX, XX, GT and LT.
    Expire,
    /// GETEX.
    GetExpire,
    /// PERSIST.
    Persist,
    /// PTTL, PEXPIRETIME.
    TimeToLive,
}

/// Clients of the front door, and the groups of keys that they work on.
#[derive(Clone, Debug)]
pub struct RedisPlan {
    /// Number of these clients.
    pub clients: u8,
    /// Number of keys in each group.
    pub groups: Vec<u8>,
    /// Weights of the commands.
    pub weights: [u8; RedisCommand::ALL.len()],
    /// Programs with several commands, as of a transaction, per mille.
    pub multi: u32,
    /// How often such a program checks a key that its client has seen, per mille.
    pub watch: u32,
    /// Requests that one client has unanswered at most.
    pub window: u32,
    /// How often several requests are sent at once, per mille.
    pub burst: u32,
    /// How often a client of the native protocol works on a group, per mille.
    pub native: u32,
}

impl RedisPlan {
    /// Nobody uses the front door.
    pub fn none() -> RedisPlan {
        RedisPlan {
            clients: 0,
            groups: Vec::new(),
            weights: [0; RedisCommand::ALL.len()],
            multi: 0,
            watch: 0,
            window: 1,
            burst: 0,
            native: 0,
        }
    }

    /// What a seed has, in two of three seeds.
    pub fn draw(dice: &mut Dice) -> RedisPlan {
        if dice.chance(333) {
            return RedisPlan::none();
        }
        RedisPlan {
            clients: dice.within(1..=3) as u8,
            groups: (0..dice.within(1..=3)).map(|_| dice.within(1..=4) as u8).collect(),
            weights: std::array::from_fn(|_| dice.pick(&[0, 1, 1, 4])),
            multi: dice.pick(&[0, 200, 500, 900]),
            watch: dice.pick(&[0, 300, 900]),
            window: dice.pick(&[1, 2, 4, 16]),
            burst: dice.pick(&[0, 300, 900]),
            native: dice.pick(&[0, 0, 100, 500]),
        }
    }

    /// No key expires.
    pub fn without_expiry(&mut self) {
        self.weights[RedisCommand::SetExpiring as usize..].fill(0);
    }

    /// Whether a key may be given an expiry.
    pub fn has_expiry(&self) -> bool {
        self.weights[RedisCommand::SetExpiring as usize..].iter().any(|weight| *weight > 0)
    }
}
