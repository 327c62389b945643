//! The commands of Redis 7.2 that are not there, for `docs/redis.md`.

/// What they have to do with, their names, and why they are not there.
pub const UNSUPPORTED: &[(&str, &str, &str)] = &[
    (
        "lists",
        "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM RPOP \
         RPOPLPUSH RPUSH RPUSHX",
        "values are strings",
    ),
    (
        "hashes",
        "HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET HSETNX HSTRLEN HVALS",
        "values are strings",
    ),
    (
        "sets",
        "SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SPOP SRANDMEMBER SREM SSCAN \
         SUNION SUNIONSTORE",
        "values are strings",
    ),
    (
        "sorted sets",
        "BZMPOP BZPOPMAX BZPOPMIN ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT ZMPOP ZMSCORE \
         ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK \
         ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE",
        "values are strings",
    ),
    (
        "streams",
        "XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID XTRIM",
        "values are strings",
    ),
    (
        "geography",
        "GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE",
        "values are strings",
    ),
    ("HyperLogLog", "PFADD PFCOUNT PFDEBUG PFMERGE PFSELFTEST", "values are strings"),
    (
        "bits and comparison of strings",
        "BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS GETBIT LCS SETBIT",
        "few use them on data that has to be safe",
    ),
    (
        "scripts and functions",
        "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO FUNCTION SCRIPT",
        "most of what is locked or compared with scripts is one command here: `SET` with `IFEQ`, `DELIFEQ`; for the rest there is `WATCH`",
    ),
    ("sharded channels", "SPUBLISH SSUBSCRIBE SUNSUBSCRIBE", "messages are not logged and not sent between servers"),
    ("several databases", "MOVE SWAPDB", "there is only database 0"),
    ("sorting", "SORT SORT_RO", "values are strings"),
    (
        "replication",
        "PSYNC REPLCONF REPLICAOF SLAVEOF SYNC",
        "servers replicate with a protocol of their own: who is primary is decided by the servers, and `FAILOVER` hands over",
    ),
    ("moving keys between servers", "DUMP MIGRATE RESTORE RESTORE-ASKING", "slots do not move"),
    ("persistence", "BGREWRITEAOF SAVE", "every answered write is durable; `BGSAVE` begins a checkpoint"),
    ("access control", "ACL", "there is one user and one password"),
    ("extension and inspection", "DEBUG LOLWUT MODULE MONITOR", "the admin port serves metrics and status"),
    (
        "subcommands of CLIENT",
        "CLIENT|CACHING CLIENT|GETREDIR CLIENT|TRACKING CLIENT|TRACKINGINFO CLIENT|UNBLOCK",
        "there is no client-side caching, and nothing blocks but `WAIT`",
    ),
    (
        "subcommands of CLUSTER",
        "CLUSTER|ADDSLOTS CLUSTER|ADDSLOTSRANGE CLUSTER|BUMPEPOCH CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|DELSLOTS CLUSTER|DELSLOTSRANGE \
         CLUSTER|FAILOVER CLUSTER|FLUSHSLOTS CLUSTER|FORGET CLUSTER|MEET CLUSTER|REPLICATE CLUSTER|SAVECONFIG CLUSTER|SET-CONFIG-EPOCH \
         CLUSTER|SETSLOT",
        "servers, shards and slots are fixed when a cluster is formatted; `FAILOVER` hands over",
    ),
    (
        "subcommands of SENTINEL",
        "SENTINEL|CONFIG SENTINEL|DEBUG SENTINEL|FAILOVER SENTINEL|FLUSHCONFIG SENTINEL|INFO-CACHE SENTINEL|IS-MASTER-DOWN-BY-ADDR \
         SENTINEL|MONITOR SENTINEL|PENDING-SCRIPTS SENTINEL|REMOVE SENTINEL|RESET SENTINEL|SET SENTINEL|SIMULATE-FAILURE",
        "there is one master, which is not chosen by sentinels, and nothing of them to be set; `FAILOVER` hands over",
    ),
    (
        "other subcommands",
        "CONFIG|REWRITE LATENCY|DOCTOR LATENCY|GRAPH MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS OBJECT|FREQ OBJECT|REFCOUNT PUBSUB|SHARDCHANNELS PUBSUB|SHARDNUMSUB",
        "they tell of what is not there",
    ),
];
