//! The long texts of `redeliver help COMMAND`.
//!
//! A paragraph is one line, which clap wraps. A line that must stay whole, such as an example, fits 80 columns.

pub(super) const FIRST_STEPS: &str = "\
First steps, in three terminals:
  redeliver serve
  redeliver listen orders --as alice
  redeliver emit orders 'order 1: tea'

Stop the listener, emit some more, start it again: it prints what it missed. `redeliver help COMMAND` \
explains each command.";

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    everything was done
  1    something failed; stderr says what, and what to do
  2    wrong usage
  3    listen: another listener took the subscriber over
  4    emit, bench: the time given with --timeout or --time-limit was over
  130  emit, bench: ended by SIGINT before all was acknowledged (143: by SIGTERM)";

pub(super) const SERVE: &str = "\
Examples:
  redeliver serve
  redeliver serve --data /var/lib/redeliver --config /etc/redeliver.toml
  redeliver serve --example-config > redeliver.toml    a file to start from

Flags win over the configuration file. docs/operations.md explains all settings.";

pub(super) const EMIT: &str = "\
Examples:
  redeliver emit orders '{\"id\": 7}' --name created
  redeliver emit orders - < picture.png
  redeliver emit syslog --lines /var/log/syslog
  journalctl -f | redeliver emit journal --lines

A line is sent without its line feed; nothing else is taken away. With --type auto, the default, a payload \
is JSON if it is a JSON object or array, with nothing around it but white space at its end. Any other UTF-8 \
is text, and the rest is bytes.

To send a file exactly once, whatever happens, choose a publisher and repeat the command until it ends with status 0:
  id=$(uuidgen)
  redeliver emit orders --lines orders.jsonl --publisher $id
The events are numbered from 1 in the order of the lines, and the server stores each number of a publisher \
once. Events that it already had are counted: `emitted 5 events, seq 8..12, 2 already stored`. FIRST and \
LAST are the lowest and the highest seq that the server still knows. It is an error to send other content \
under a number that was used.

With --volatile nothing is stored, acknowledged or sent again: `sent 5 volatile events` says that they left \
this machine, and no more. They need a connection: without one, the command waits for it (--timeout limits \
that).

Exit codes:
  0    every event is acknowledged
  1    something failed; stderr says what, and how many events are acknowledged
  2    wrong usage
  4    the time given with --timeout was over
  130  ended by SIGINT (143: by SIGTERM); stderr says how far it came";

pub(super) const LISTEN: &str = "\
Examples:
  redeliver listen orders                         what comes from now on
  redeliver listen orders --as billing            what is new for `billing`
  redeliver listen orders --as billing --rewind 1h     the last hour once more
  redeliver listen orders --start earliest        all that is kept, and so on
  redeliver listen orders --start -10             the last 10 events, and so on
  redeliver listen orders --start 1h --until-caught-up      the last hour
  redeliver listen orders --start 100 --count 1   the first with seq 100 or more
  redeliver listen a b --format json | jq .       two topics, as JSON
  redeliver listen --merged a b --as audit        two topics, in the log's order

Each topic is printed in its own order, and an event that belongs to two topics is printed twice. With \
--merged, the topics are one row in the order of their seqs, and each event is printed once, under any of \
its topics. While one topic has to wait (for its owner to go, say), all of them do.

With --as, the server remembers the last line that was written. A name that it does not know begins with the \
earliest event, or where --start says; for a name that it knows, --start changes nothing, and --rewind moves it. \
If a listener was killed, lines after its last confirmed place are printed again, marked \"redelivered\" in \
JSON. One listener has a name at a time: a second one takes over, and the first ends with status 3.

--format lines prints payloads byte for byte. On a terminal, control characters are escaped, unless --raw is \
given. --format json prints one object a line:
  {\"seq\":12,\"nth\":3,\"topic\":\"orders\",\"name\":\"created\",
   \"time\":\"2026-11-22T19:40:00.123Z\",\"payload\":…,\"redelivered\":false}
seq numbers all events of the server, nth those of the topic, and time is in UTC. A text is a string, JSON \
is itself, and other bytes are {\"base64\":\"…\"}. JSON that other programs may not read (half a surrogate \
pair, more than 100 levels) is a string too. A gap means that events are gone for good, and is a line in its \
place:
  {\"gap\":{\"topic\":\"orders\",\"after\":12,\"through\":20,\"count\":5,
          \"exact\":true,\"cause\":\"retention_age\"}}
Its cause is retention_age, retention_size, purged, log_damaged or epoch_changed. An event that is not \
stored (`emit --volatile`) comes only while somebody listens, and has no numbers:
  {\"volatile\":true,\"topic\":\"orders\",\"name\":\"typing\",\"time\":…,\"payload\":…}

Exit codes:
  0    ended by --count, --until-caught-up, SIGINT, SIGTERM or a stdout whose
       reader has gone; acks are confirmed
  1    something failed; stderr says what
  2    wrong usage
  3    another listener took the subscriber over";

pub(super) const BENCH: &str = "\
Examples:
  redeliver bench                     a minute with the server on this machine
  redeliver bench --workload fan-out --readers 1000
  redeliver bench --workload emit --emitters 64 --outstanding 32 --events 1M
  redeliver bench --url ws://10.0.0.5:7400 --json > figures.json

emit       events per second that were acknowledged, and the time from emit to receipt; all are read back afterwards
fan-out    deliveries per second to all readers, and the time from emit to handler
recovery   seconds from connect to the last event: one reader that missed all, then all that missed 100 each

The topics are PREFIX/RUN/WORKLOAD, and each run has a RUN of its own. The events stay stored until the \
server's retention removes them: about (payload + 60) bytes × 2 × events. With tokens, the one in use must \
allow PREFIX/* to emit and to subscribe. A server on the same machine shares its cores with the bench. The \
first failure ends the run, and what was measured is printed.

Exit codes:
  0    everything was verified
  1    something failed; stderr says what
  2    wrong usage
  4    a workload was not done within --time-limit
  130  ended by SIGINT (143: by SIGTERM)";
