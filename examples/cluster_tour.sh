#!/bin/sh
# A walk through a cluster on this machine, with curl and nothing else. First, in another terminal: make cluster
# What it prints looks like examples/cluster_tour.expected; names of nodes, uids and times differ from run to run.
set -eu
cd "$(dirname "$0")/.."
data=${CLUSTER_DATA:-data/cluster}
first=${CLUSTER_PORT:-8081}
node1=http://127.0.0.1:$first
node2=http://127.0.0.1:$((first + 1))
node3=http://127.0.0.1:$((first + 2))
observer=http://127.0.0.1:$((first + 3))
node4=http://127.0.0.1:$((first + 4))

say() { printf '\n== %s\n' "$*"; }
# A write that meets a partition on its way to another node may get 503: curl sends it again after Retry-After.
ask() { curl -sSf --max-time 15 --retry 8 "$@"; }
# The body, and the header that says who answered, and from where.
read_from() { ask -D - "$1" | tr -d '\r' | sed -n -e 's/^profile-served-by/  &/p' -e 's/^{.*/  &/p'; echo; }
# The same; on a busy machine an owner may be silent for half a second, and its standby answers: then ask again.
read_from_owner() {
    for _ in 1 2 3 4 5; do
        answer=$(read_from "$1")
        case $answer in *role=standby*) sleep 1 ;; *) break ;; esac
    done
    printf '%s\n' "$answer"
}
field() { sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p"; }
owners() { ask "$1/metadata" | tr '{' '\n' | sed -n 's/^"partition":\([0-9]*\),"owner":"\([^"]*\)".*/\1 \2/p'; }
owner_of() { ask "$1/metadata/stores/profile.store/key/$2" | tr '{' '\n' | sed -n 's/.*"node_id":"\([^"]*\)".*"role":"owner".*/\1/p'; }

[ -r "$data/environment" ] || { echo "there is no cluster: run make cluster in another terminal" >&2; exit 1; }

say "Who owns which partition, as node 1 sees it"
owners "$node1" | sed 's/\(.*\) \(.*\)/  partition \1: \2/'

say "Three profiles, created through node 1"
created=''
for name in ann bob cid; do
    profile=$(ask -H 'Content-Type: application/json' -d "{\"username\":\"$name\",\"email\":\"$name.$$@mail.com\"}" "$node1/api/profile")
    echo "  $profile"
    created="$created $(echo "$profile" | field uid)"
done
set -- $created
uid=$1

say "The first one, read through node 2, node 3 and the observer"
read_from_owner "$node2/api/profile/$uid"
read_from_owner "$node3/api/profile/$uid"
read_from_owner "$observer/api/profile/$uid"

say "Found by its e-mail through node 2, node 3 and the observer"
read_from_owner "$node2/api/search?email=ann.$$@mail.com"
read_from_owner "$node3/api/search?email=ann.$$@mail.com"
read_from_owner "$observer/api/search?email=ann.$$@mail.com"

say "Where it is: an owner and its standby"
ask "$node1/metadata/stores/profile.store/key/$uid" | tr '{' '\n' |
    sed -n 's/.*"node_id":"\([^"]*\)".*"role":"\([^"]*\)".*/  \2: \1/p'
echo

owner=$(owner_of "$node1" "$uid")
case $owner in node-1) entry=$node2 ;; *) entry=$node1 ;; esac
say "kill -9 of its owner"
kill -9 "-$(cat "$data/$owner.pid")"  # the whole process group
echo "  killed: $owner"

say "Read at once through another node: the standby answers, behind a barrier"
read_from "$entry/api/profile/$uid"

say "Changed as soon as another node has taken over"
ask -X PATCH -H 'Content-Type: application/merge-patch+json' -d '{"username":"ann two"}' "$entry/api/profile/$uid" | sed 's/^/  /'
echo
echo "  the owner now: $(owner_of "$entry" "$uid" | sed "s/^$owner\$/still $owner/")"

say "A fourth node joins"
(
    . "$data/environment"
    export PORT=$((first + 4)) PROFILES_NODE_ID=node-4 PROFILES_STATE_DIR="$data/node-4"
    exec "$PYTHON" -m app run
) > "$data/node-4.log" 2>&1 &
fourth=$!
trap 'kill $fourth 2> /dev/null || true' EXIT
tries=0
until owners "$entry" | grep -q ' node-4$'; do
    tries=$((tries + 1))
    [ $tries -lt 120 ] || { echo "node-4 got no partition:" >&2; tail -20 "$data/node-4.log" >&2; exit 1; }
    sleep 0.5
done
until ! ask "$node4/metadata" | grep -q -e '"owner":null' -e '"suspected":true'; do
    tries=$((tries + 1))
    [ $tries -lt 120 ] || { echo "the partitions do not come to rest" >&2; exit 1; }
    sleep 0.5
done
# It follows its share first, and gets it when it has caught up.
echo "  it owns partitions now, and so do:$(owners "$entry" | sed 's/.* //' | sort -u | grep -v node-4 | sed 's/.*/ other/' | tr -d '\n')"

say "All three, through node 4"
for one in $created; do read_from_owner "$node4/api/profile/$one"; done
