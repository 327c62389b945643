//! LATENCY and its subcommands.

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        registry::{self, Spec},
        stats::{CommandCounts, bucket_bound_us},
        writer::Writer,
    },
    help::{help, subcommand_error},
};

/// LATENCY alone.
pub fn latency<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "LATENCY", arguments)
}

/// LATENCY HELP.
pub fn latency_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "latency")
}

/// LATENCY LATEST.
pub fn latency_latest<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.array(0);
    Action::Done
}

/// LATENCY HISTORY.
pub fn latency_history<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.array(0);
    Action::Done
}

/// LATENCY RESET.
pub fn latency_reset<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(0);
    Action::Done
}

/// LATENCY HISTOGRAM.
pub fn latency_histogram<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let mut asked: Vec<&Spec> = Vec::new();
    if arguments.len() == 2 {
        asked.extend(registry::all().iter().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)));
    }
    for spec in arguments.iter().skip(2).filter_map(registry::find_full) {
        asked.push(spec);
        asked.extend(spec.subcommands);
    }
    let counted = asked.into_iter().map(|spec| (spec, context.server.command_counts(context.shard, spec.number)));
    let counted: Vec<_> = counted.filter(|(_, counts)| counts.calls > 0).collect();
    context.out.map(counted.len());
    for (spec, counts) in counted {
        context.out.bulk(spec.full_name().as_bytes());
        write_histogram(&counts, &mut context.out);
    }
    Action::Done
}

fn write_histogram(counts: &CommandCounts, out: &mut Writer<'_>) {
    let mut sum = 0;
    let cumulative = counts.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, count)| {
        sum += count;
        (bucket_bound_us(bucket), sum)
    });
    let cumulative: Vec<(u64, u64)> = cumulative.collect();
    out.map(2);
    out.bulk(b"calls");
    out.integer(counts.calls as i64);
    out.bulk(b"histogram_usec");
    out.map(cumulative.len());
    for (bound_us, count) in cumulative {
        out.integer(bound_us as i64);
        out.integer(count as i64);
    }
}
