import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.BiFunction;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Aggregator;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.BranchedKStream;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Initializer;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KGroupedTable;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Reducer;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.SessionWindowedKStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.ValueJoiner;
import org.apache.kafka.streams.kstream.ValueJoinerWithKey;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Makes a topology of Kafka Streams from the steps of a case; follows the types of keys and values from step to step. */
final class TopologyMaker {

    /** What a step makes: a KStream, KTable, GlobalKTable or grouped thing, with the types of its keys and values. */
    private record Node(Object what, Type key, Type value) {}

    /** Types of a topic or a store; `windowMs` is the size of a store's time windows. */
    record Types(Type key, Type value, long windowMs) {
        Types(Type key, Type value) {
            this(key, value, 0);
        }
    }

    /** The members of each operation: those it needs, then those it may have. */
    static final Map<String, List<List<String>>> OPERATIONS = new TreeMap<>();

    static {
        operation("stream", "id topic key value", "");
        operation("table", "id topic key value", "store");
        operation("global_table", "id topic key value", "store");
        operation("filter", "id from function", "store");
        operation("filter_not", "id from function", "store");
        operation("map_values", "id from function", "store");
        operation("map", "id from function", "");
        operation("flat_map", "id from function", "");
        operation("flat_map_values", "id from function", "");
        operation("select_key", "id from function", "");
        operation("merge", "id from with", "");
        operation("split", "from branches", "default");
        operation("repartition", "id from", "name partitions");
        operation("to", "from topic", "");
        operation("process", "id from function store", "interval_ms time");
        operation("to_table", "id from", "store");
        operation("to_stream", "id from", "");
        operation("group_by_key", "id from", "");
        operation("group_by", "id from function", "");
        operation("windowed_by", "id from window grace_ms", "size_ms advance_ms gap_ms difference_ms");
        operation("count", "id from", "store retention_ms");
        operation("reduce", "id from function", "subtractor store retention_ms");
        operation("aggregate", "id from function", "subtractor store retention_ms");
        operation("suppress", "id from until", "wait_ms max_records");
        String joining = "store before_ms after_ms grace_ms key_function foreign_key";
        operation("join", "id from with function", joining);
        operation("left_join", "id from with function", joining);
        operation("outer_join", "id from with function", "store before_ms after_ms grace_ms");
    }

    private static void operation(String name, String needed, String allowed) {
        OPERATIONS.put(name, List.of(List.of(needed.split(" ")), allowed.isEmpty() ? List.of() : List.of(allowed.split(" "))));
    }

    final StreamsBuilder builder = new StreamsBuilder();
    final Map<String, Types> sources = new HashMap<>();
    final Map<String, Types> sinks = new LinkedHashMap<>();
    /** The types of the named stores. */
    final Map<String, Types> stores = new HashMap<>();
    private final Map<String, Node> nodes = new HashMap<>();
    /** The size of windows by the id of a windowed stream. */
    private final Map<Object, Long> windowSizes = new HashMap<>();

    TopologyMaker(JsonNode steps) {
        for (JsonNode step : steps) {
            check(step);
            make(step, text(step, "op"));
        }
    }

    private static void check(JsonNode step) {
        List<List<String>> members = OPERATIONS.get(text(step, "op"));
        if (members == null) {
            throw new IllegalArgumentException("unknown operation in " + step);
        }
        Set<String> unknown = new LinkedHashSet<>();
        step.fieldNames().forEachRemaining(unknown::add);
        members.get(0).forEach(name -> text(step, name));
        unknown.remove("op");
        members.forEach(unknown::removeAll);
        if (!unknown.isEmpty()) {
            throw new IllegalArgumentException("unknown members " + unknown + " in " + step);
        }
    }

    private void make(JsonNode step, String op) {
        switch (op) {
            case "stream", "table", "global_table" -> source(step, op);
            case "filter", "filter_not" -> filter(step, op.equals("filter_not"));
            case "map_values" -> mapValues(step);
            case "map", "flat_map" -> mapPairs(step, op);
            case "flat_map_values" -> flatMapValues(step);
            case "select_key" -> selectKey(step);
            case "merge" -> put(step, stream(step).merge(stream(named(step, "with"))), from(step));
            case "split" -> split(step);
            case "repartition" -> repartition(step);
            case "to" -> to(step);
            case "process" -> process(step);
            case "to_table" -> put(step, stream(step).toTable(materialized(step, from(step).key, from(step).value)), from(step));
            case "to_stream" -> put(step, table(from(step)).toStream(), from(step));
            case "group_by_key" -> put(step, stream(step).groupByKey(grouped(from(step).key, from(step).value)), from(step));
            case "group_by" -> groupBy(step);
            case "windowed_by" -> windowedBy(step);
            case "count", "reduce", "aggregate" -> aggregate(step, op);
            case "suppress" -> suppress(step);
            case "join", "left_join", "outer_join" -> join(step, op);
            default -> throw new IllegalStateException(op);
        }
    }

    private void source(JsonNode step, String op) {
        String topic = text(step, "topic");
        Types types = new Types(Type.named(text(step, "key")), Type.named(text(step, "value")));
        sources.put(topic, types);
        Consumed<Object, Object> consumed = Consumed.with(types.key().serde(), types.value().serde());
        Object made = switch (op) {
            case "stream" -> builder.stream(topic, consumed);
            case "table" -> step.has("store") ? builder.table(topic, consumed, materialized(step, types.key(), types.value())) : builder.table(topic, consumed);
            default -> step.has("store") ? builder.globalTable(topic, consumed, materialized(step, types.key(), types.value())) : builder.globalTable(topic, consumed);
        };
        put(step, made, types.key(), types.value());
    }

    private void filter(JsonNode step, boolean isNegated) {
        Functions.Predicate predicate = Functions.find(Functions.PREDICATES, text(step, "function"));
        Node from = from(step);
        Object made;
        if (from.what instanceof KTable<?, ?>) {
            KTable<Object, Object> table = table(from);
            Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = materialized(step, from.key, from.value);
            if (isNegated) {
                made = step.has("store") ? table.filterNot(predicate::test, store) : table.filterNot(predicate::test);
            } else {
                made = step.has("store") ? table.filter(predicate::test, store) : table.filter(predicate::test);
            }
        } else {
            made = isNegated ? stream(step).filterNot(predicate::test) : stream(step).filter(predicate::test);
        }
        put(step, made, from);
    }

    private void mapValues(JsonNode step) {
        Functions.Mapper mapper = Functions.find(Functions.VALUE_MAPPERS, text(step, "function"));
        Node from = from(step);
        Type type = or(mapper.type(), from.value);
        Object made;
        if (from.what instanceof KTable<?, ?>) {
            KTable<Object, Object> table = table(from);
            made = step.has("store")
                ? table.mapValues((k, v) -> mapper.apply().apply(k, v), materialized(step, from.key, type))
                : table.mapValues((k, v) -> mapper.apply().apply(k, v));
        } else {
            made = stream(step).mapValues((k, v) -> mapper.apply().apply(k, v));
        }
        put(step, made, from.key, type);
    }

    @SuppressWarnings("unchecked")
    private void mapPairs(JsonNode step, String op) {
        boolean isFlat = op.equals("flat_map");
        Functions.PairMapper mapper = Functions.find(isFlat ? Functions.FLAT_MAPPERS : Functions.MAPPERS, text(step, "function"));
        Node from = from(step);
        Object made = isFlat
            ? stream(step).flatMap((k, v) -> (List<KeyValue<Object, Object>>) mapper.apply().apply(k, v))
            : stream(step).map((k, v) -> (KeyValue<Object, Object>) mapper.apply().apply(k, v));
        KeyValue<Type, Type> types = mapper.types().apply(from.key, from.value);
        put(step, made, types.key, types.value);
    }

    @SuppressWarnings("unchecked")
    private void flatMapValues(JsonNode step) {
        Functions.Mapper mapper = Functions.find(Functions.FLAT_VALUE_MAPPERS, text(step, "function"));
        Node from = from(step);
        Object made = stream(step).flatMapValues((k, v) -> (List<Object>) mapper.apply().apply(k, v));
        put(step, made, from.key, or(mapper.type(), from.value));
    }

    private void selectKey(JsonNode step) {
        Functions.Mapper selector = Functions.find(Functions.KEY_SELECTORS, text(step, "function"));
        Node from = from(step);
        put(step, stream(step).selectKey((k, v) -> selector.apply().apply(k, v)), keyType(selector, from), from.value);
    }

    private void split(JsonNode step) {
        Node from = from(step);
        BranchedKStream<Object, Object> branched = stream(step).split();
        for (JsonNode branch : step.get("branches")) {
            Functions.Predicate predicate = Functions.find(Functions.PREDICATES, text(branch, "function"));
            String id = text(branch, "id");
            branched = branched.branch(predicate::test, Branched.withConsumer(made -> put(id, made, from.key, from.value)));
        }
        if (step.has("default")) {
            String id = text(step, "default");
            branched.defaultBranch(Branched.withConsumer(made -> put(id, made, from.key, from.value)));
        } else {
            branched.noDefaultBranch();
        }
    }

    private void repartition(JsonNode step) {
        Node from = from(step);
        Repartitioned<Object, Object> repartitioned = Repartitioned.with(from.key.serde(), from.value.serde());
        if (step.has("name")) {
            repartitioned = repartitioned.withName(text(step, "name"));
        }
        if (step.has("partitions")) {
            repartitioned = repartitioned.withNumberOfPartitions(step.get("partitions").intValue());
        }
        put(step, stream(step).repartition(repartitioned), from);
    }

    private void to(JsonNode step) {
        Node from = from(step);
        sinks.put(text(step, "topic"), new Types(from.key, from.value));
        stream(step).to(text(step, "topic"), Produced.with(from.key.serde(), from.value.serde()));
    }

    private void process(JsonNode step) {
        Node from = from(step);
        String store = text(step, "store");
        Processors.Kind kind = Processors.KINDS.get(text(step, "function"));
        Type stored = or(kind.stored(), from.value);
        stores.put(store, new Types(Type.STRING, stored));
        builder.addStateStore(Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore(store), Type.STRING.serde(), stored.serde()));
        long intervalMs = step.path("interval_ms").longValue();
        boolean isWallClock = step.path("time").asText("stream").equals("wall_clock");
        Object made = stream(step).process(() -> kind.make().apply(new Processors.Setting(store, intervalMs, isWallClock)), store);
        put(step, made, from.key, or(kind.forwarded(), from.value));
    }

    private void groupBy(JsonNode step) {
        Functions.Mapper selector = Functions.find(Functions.KEY_SELECTORS, text(step, "function"));
        Node from = from(step);
        Type key = keyType(selector, from);
        Grouped<Object, Object> grouped = grouped(key, from.value);
        Object made = from.what instanceof KTable<?, ?>
            ? table(from).groupBy((k, v) -> KeyValue.pair(selector.apply().apply(k, v), v), grouped)
            : stream(step).groupBy((k, v) -> selector.apply().apply(k, v), grouped);
        put(step, made, key, from.value);
    }

    private void windowedBy(JsonNode step) {
        Node from = from(step);
        KGroupedStream<Object, Object> grouped = cast(from.what);
        Duration grace = ms(step, "grace_ms");
        String window = text(step, "window");
        long size = 0;
        Object made = switch (window) {
            case "tumbling" -> grouped.windowedBy(TimeWindows.ofSizeAndGrace(ms(step, "size_ms"), grace));
            case "hopping" -> grouped.windowedBy(TimeWindows.ofSizeAndGrace(ms(step, "size_ms"), grace).advanceBy(ms(step, "advance_ms")));
            case "sliding" -> grouped.windowedBy(SlidingWindows.ofTimeDifferenceAndGrace(ms(step, "difference_ms"), grace));
            case "session" -> grouped.windowedBy(SessionWindows.ofInactivityGapAndGrace(ms(step, "gap_ms"), grace));
            default -> throw new IllegalArgumentException("unknown window " + window);
        };
        if (!window.equals("session")) {
            size = step.get(window.equals("sliding") ? "difference_ms" : "size_ms").longValue();
        }
        windowSizes.put(made, size);
        put(step, made, from);
    }

    private void aggregate(JsonNode step, String op) {
        Node from = from(step);
        Type type = switch (op) {
            case "count" -> Type.LONG;
            case "reduce" -> from.value;
            default -> Functions.find(Functions.AGGREGATORS, text(step, "function")).type();
        };
        Reducer<Object> reducer = op.equals("reduce") ? reducer(step, "function") : null;
        Functions.Aggregation adding = op.equals("aggregate") ? Functions.find(Functions.AGGREGATORS, text(step, "function")) : null;
        Initializer<Object> initial = adding == null ? null : adding::initial;
        Aggregator<Object, Object, Object> adder = adding == null ? null : adding.apply()::apply;
        if (from.what instanceof KGroupedTable<?, ?>) {
            KGroupedTable<Object, Object> grouped = cast(from.what);
            put(step, switch (op) {
                case "count" -> grouped.count(materialized(step, from.key, type));
                case "reduce" -> grouped.reduce(reducer, reducer(step, "subtractor"), materialized(step, from.key, type));
                default -> grouped.aggregate(initial, adder, Functions.find(Functions.AGGREGATORS, text(step, "subtractor")).apply()::apply, materialized(step, from.key, type));
            }, from.key, type);
        } else if (from.what instanceof KGroupedStream<?, ?>) {
            KGroupedStream<Object, Object> grouped = cast(from.what);
            put(step, switch (op) {
                case "count" -> grouped.count(materialized(step, from.key, type));
                case "reduce" -> grouped.reduce(reducer, materialized(step, from.key, type));
                default -> grouped.aggregate(initial, adder, materialized(step, from.key, type));
            }, from.key, type);
        } else if (from.what instanceof TimeWindowedKStream<?, ?>) {
            TimeWindowedKStream<Object, Object> grouped = cast(from.what);
            long size = windowSizes.get(from.what);
            Type key = Type.timeWindowed(from.key, size);
            put(step, switch (op) {
                case "count" -> grouped.count(materialized(step, from.key, type));
                case "reduce" -> grouped.reduce(reducer, materialized(step, from.key, type));
                default -> grouped.aggregate(initial, adder, materialized(step, from.key, type));
            }, key, type);
            stores.computeIfPresent(step.path("store").asText(), (name, types) -> new Types(from.key, type, size));
        } else {
            SessionWindowedKStream<Object, Object> grouped = cast(from.what);
            put(step, switch (op) {
                case "count" -> grouped.count(materialized(step, from.key, type));
                case "reduce" -> grouped.reduce(reducer, materialized(step, from.key, type));
                default -> grouped.aggregate(initial, adder, (k, a, b) -> adding.merge().apply(a, b), materialized(step, from.key, type));
            }, Type.sessionWindowed(from.key), type);
        }
    }

    private static Reducer<Object> reducer(JsonNode step, String member) {
        return Functions.find(Functions.REDUCERS, text(step, member))::apply;
    }

    private void suppress(JsonNode step) {
        Node from = from(step);
        KTable<Object, Object> table = table(from);
        Object made = switch (text(step, "until")) {
            case "window_closes" -> {
                KTable<Windowed<Object>, Object> windowed = cast(table);
                yield windowed.suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()));
            }
            case "time_limit" -> table.suppress(Suppressed.untilTimeLimit(ms(step, "wait_ms"), step.has("max_records")
                ? Suppressed.BufferConfig.maxRecords(step.get("max_records").longValue()).emitEarlyWhenFull()
                : Suppressed.BufferConfig.unbounded()));
            default -> throw new IllegalArgumentException("unknown until in " + step);
        };
        put(step, made, from);
    }

    private void join(JsonNode step, String op) {
        Node left = from(step);
        Node right = named(step, "with");
        Functions.Joining joining = Functions.find(Functions.JOINERS, text(step, "function"));
        Type type = or(joining.type(), joining.isRight() ? right.value : left.value);
        ValueJoinerWithKey<Object, Object, Object, Object> joiner = joining.apply()::apply;
        Object made;
        if (right.what instanceof GlobalKTable<?, ?>) {
            GlobalKTable<Object, Object> global = cast(right.what);
            Functions.Mapper selector = Functions.find(Functions.KEY_SELECTORS, text(step, "key_function"));
            made = op.equals("join")
                ? stream(left).join(global, (k, v) -> selector.apply().apply(k, v), joiner)
                : stream(left).leftJoin(global, (k, v) -> selector.apply().apply(k, v), joiner);
        } else if (left.what instanceof KTable<?, ?>) {
            made = joinTables(step, op, left, right, joining, type);
        } else if (right.what instanceof KTable<?, ?>) {
            Joined<Object, Object, Object> joined = Joined.with(left.key.serde(), left.value.serde(), right.value.serde());
            made = op.equals("join")
                ? stream(left).join(table(right), joiner, joined)
                : stream(left).leftJoin(table(right), joiner, joined);
        } else {
            JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, ms(step, "grace_ms"))
                .before(ms(step, "before_ms")).after(ms(step, "after_ms"));
            StreamJoined<Object, Object, Object> joined = StreamJoined.with(left.key.serde(), left.value.serde(), right.value.serde());
            made = switch (op) {
                case "join" -> stream(left).join(stream(right), joiner, windows, joined);
                case "left_join" -> stream(left).leftJoin(stream(right), joiner, windows, joined);
                default -> stream(left).outerJoin(stream(right), joiner, windows, joined);
            };
        }
        put(step, made, left.key, type);
    }

    private Object joinTables(JsonNode step, String op, Node left, Node right, Functions.Joining joining, Type type) {
        if (text(step, "function").equals("with_key")) {
            throw new IllegalArgumentException("a joiner of two tables is not told the key");
        }
        ValueJoiner<Object, Object, Object> joiner = (l, r) -> joining.apply().apply(null, l, r);
        Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = materialized(step, left.key, type);
        KTable<Object, Object> table = table(left);
        KTable<Object, Object> other = table(right);
        if (step.has("foreign_key")) {
            Functions.Mapper selector = Functions.find(Functions.KEY_SELECTORS, text(step, "foreign_key"));
            BiFunction<Object, Object, Object> foreignKey = (k, v) -> selector.apply().apply(k, v);
            return op.equals("join") ? table.join(other, foreignKey, joiner, store) : table.leftJoin(other, foreignKey, joiner, store);
        }
        boolean isNamed = step.has("store");
        return switch (op) {
            case "join" -> isNamed ? table.join(other, joiner, store) : table.join(other, joiner);
            case "left_join" -> isNamed ? table.leftJoin(other, joiner, store) : table.leftJoin(other, joiner);
            default -> isNamed ? table.outerJoin(other, joiner, store) : table.outerJoin(other, joiner);
        };
    }

    private <V, S extends StateStore> Materialized<Object, V, S> materialized(JsonNode step, Type key, Type value) {
        Materialized<Object, Object, S> made = Materialized.with(key.serde(), value.serde());
        if (step.has("store")) {
            stores.put(text(step, "store"), new Types(key, value));
            made = Materialized.<Object, Object, S>as(text(step, "store")).withKeySerde(key.serde()).withValueSerde(value.serde());
        }
        return cast(step.has("retention_ms") ? made.withRetention(ms(step, "retention_ms")) : made);
    }

    private static Grouped<Object, Object> grouped(Type key, Type value) {
        return Grouped.with(key.serde(), value.serde());
    }

    private static Type keyType(Functions.Mapper selector, Node from) {
        if (selector.type() == Functions.KEY) {
            return from.key;
        }
        return selector.type() == Functions.KEY_INSIDE ? from.key.inner() : or(selector.type(), from.value);
    }

    private static Type or(Type type, Type other) {
        return type == null ? other : type;
    }

    private Node named(JsonNode step, String member) {
        Node node = nodes.get(text(step, member));
        if (node == null) {
            throw new IllegalArgumentException("no earlier step has the id " + text(step, member));
        }
        return node;
    }

    private Node from(JsonNode step) {
        return named(step, "from");
    }

    private KStream<Object, Object> stream(JsonNode step) {
        return stream(from(step));
    }

    private static KStream<Object, Object> stream(Node node) {
        return cast(node.what);
    }

    private static KTable<Object, Object> table(Node node) {
        return cast(node.what);
    }

    @SuppressWarnings("unchecked")
    private static <T> T cast(Object what) {
        return (T) what;
    }

    private void put(JsonNode step, Object what, Node like) {
        put(step, what, like.key, like.value);
    }

    private void put(JsonNode step, Object what, Type key, Type value) {
        put(text(step, "id"), what, key, value);
    }

    private void put(String id, Object what, Type key, Type value) {
        if (nodes.put(id, new Node(what, key, value)) != null) {
            throw new IllegalArgumentException("the id " + id + " is used twice");
        }
    }

    private static Duration ms(JsonNode step, String member) {
        if (!step.has(member)) {
            throw new IllegalArgumentException(member + " is missing in " + step);
        }
        return Duration.ofMillis(step.get(member).longValue());
    }

    static String text(JsonNode step, String member) {
        if (!step.has(member)) {
            throw new IllegalArgumentException(member + " is missing in " + step);
        }
        return step.get(member).asText();
    }
}
