#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job, to watch: a shop's invoices are paid exactly once although the importer is killed.
#   tools/demo.sh [PATH]    PATH: an invoice file or a folder of them; else KESSAI_REAL_DATA; else
#                           a generated month. Binaries: $KESSAI_BIN, else build/release/bin.
# Ends with exit code 1 when any proof fails.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${KESSAI_BIN:-$root/build/release/bin}
kvpay=$bin/kvpay kvsh=$bin/kvsh
threads=2

bold='' dim='' good='' bad='' reset=''
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' good=$'\e[32m' bad=$'\e[31m' reset=$'\e[0m'
fi
chapter() { printf '\n%s%s%s\n' "$bold" "$1" "$reset"; }
say() { printf '  %s\n' "$1"; }
run() { printf '%s  $ %s%s\n' "$dim" "$1" "$reset"; }

proofs=0 failures=0
prove() {  # prove WHAT GOT WANTED
  proofs=$((proofs + 1))
  if [[ $2 == "$3" ]]; then
    printf '  %sproved%s  %s: %s\n' "$good" "$reset" "$1" "$2"
  else
    printf '  %sFAILED%s  %s: %s, should be %s\n' "$bad" "$reset" "$1" "$2" "$3"
    failures=$((failures + 1))
  fi
}
indent() { sed 's/^/  /'; }
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# The truth about the input, from the input alone: exact decimals, no code shared with kessai.
truth() {
  python3 - "$1" <<'PY'
import csv, glob, os, sys
from collections import defaultdict
from decimal import Decimal
path, amounts, lines = sys.argv[1], defaultdict(Decimal), 0
for name in sorted(glob.glob(os.path.join(path, "*.csv"))) if os.path.isdir(path) else [path]:
    with open(name, encoding="latin-1", newline="") as f:
        for row in csv.DictReader(f):
            amounts[row["InvoiceNo"]] += Decimal(row["Quantity"]) * Decimal(row["UnitPrice"])
            lines += 1
print(len(amounts), int(sum(amounts.values()) * 1000), lines)
PY
}

work=$(mktemp -d "${TMPDIR:-/var/tmp}/kessai-demo.XXXXXX")
importer=
cleanup() {
  [[ -z $importer ]] || kill -9 "$importer" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
store=$work/shop

chapter "1  The input"
input=${1:-${KESSAI_REAL_DATA:-}}
if [[ -z $input ]]; then
  input=$work/invoices
  run "kvpay generate invoices --days 30"
  "$kvpay" generate "$input" --days 30 --invoices 150 --seed 2010 | indent
fi
[[ -r $input ]] || { echo "demo: cannot read $input" >&2 && exit 2; }
read -r requests sum lines < <(truth "$input") || { echo "demo: $input holds no readable invoices" >&2 && exit 2; }
say "$input: $lines lines, $requests invoices, together $(python3 -c "print(f'{$sum/1000:,.3f}')")"
say "(computed by python3 with exact decimals, from the files alone)"

chapter "2  Pay them, and pull the plug half way: kill -9"
run "kvpay replay shop INPUT --threads $threads"
mkfifo "$work/told"
"$kvpay" replay "$store" "$input" --threads $threads --milestone 50 --hold >"$work/told" &
importer=$!
milestone=
read -r milestone <"$work/told" || true
kill -9 "$importer"
wait "$importer" 2>/dev/null && status=0 || status=$?
importer=
[[ -t 2 ]] && printf '\n'
prove "the importer died of" "signal $((status - 128))" "signal 9"
durable=$(field settled <<<"$milestone")
say "by then it had answered $durable payments as durable"

chapter "3  What the crash left, looked at without writing anything"
run "kvsh shop -c info"
"$kvsh" "$store" -c info | indent
run "kvpay totals shop"
totals=$("$kvpay" totals "$store" --json)
survived=$(field requests <<<"$totals")
results=$(($(field payments <<<"$totals") + $(field cancellations <<<"$totals") + $(field adjustments <<<"$totals")))
say "$survived requests, $results results"
prove "answered payments that are lost" "$((survived >= durable ? 0 : durable - survived))" 0
prove "half payments (requests without result)" "$((survived - results))" 0

chapter "4  The same command again: recovery, then the rest"
run "kvpay replay shop INPUT --threads $threads --latency"
"$kvpay" replay "$store" "$input" --threads $threads --latency | indent
again=$("$kvpay" replay "$store" "$input" --threads $threads --json)
prove "paid again by a third run" "$(field accepted <<<"$again")" 0
prove "found done by it" "$(field already_done <<<"$again")" "$requests"

chapter "5  The books"
run "kvpay totals shop"
"$kvpay" totals "$store" | indent
totals=$("$kvpay" totals "$store" --json)
prove "payments in the store" "$(field requests <<<"$totals")" "$requests"
prove "their sum in thousandths" "$(field total_milli <<<"$totals")" "$sum"

chapter "6  Inside the store"
run "kvsh shop -c 'info; tree payment_request.ids --nodes 0; check'"
"$kvsh" "$store" -c 'info; tree payment_request.ids --nodes 0' | indent
verdict=0
"$kvsh" "$store" -c check | indent || verdict=$?
prove "kvsh check ends with" "exit $verdict" "exit 0"

if ((failures)); then
  printf '\n%s%d of %d proofs failed%s\n' "$bad" "$failures" "$proofs" "$reset"
  exit 1
fi
printf '\n%sAll %d proofs hold: %d invoices, each paid exactly once.%s\n' "$good" "$proofs" "$requests" "$reset"
