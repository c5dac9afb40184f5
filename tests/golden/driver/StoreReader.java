import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.ValueAndTimestamp;
import org.apache.kafka.streams.state.WindowStore;

/** Reads the stores of a case when its input has been processed. */
final class StoreReader {

    private interface Read {
        List<KeyValue<Object, Object>> entries(StateStore store, JsonNode read);
    }

    static final Map<String, Read> READS = new TreeMap<>();

    static {
        READS.put("all", StoreReader::all);
        READS.put("get", (store, read) -> one(key(read, "key"), keyValues(store).get(key(read, "key"))));
        READS.put("range", (store, read) -> list(keyValues(store).range(key(read, "from"), key(read, "to"))));
        READS.put("reverse_range", (store, read) -> list(keyValues(store).reverseRange(key(read, "from"), key(read, "to"))));
        READS.put("prefix", (store, read) ->
            list(keyValues(store).prefixScan(key(read, "prefix"), Type.STRING.serde().serializer())));
        READS.put("fetch", (store, read) ->
            list(windows(store).fetch(key(read, "key"), time(read, "from_ms"), time(read, "to_ms"))));
        READS.put("backward_fetch", (store, read) ->
            list(windows(store).backwardFetch(key(read, "key"), time(read, "from_ms"), time(read, "to_ms"))));
        READS.put("fetch_keys", (store, read) -> sorted(
            windows(store).fetch(key(read, "from"), key(read, "to"), time(read, "from_ms"), time(read, "to_ms"))));
        READS.put("fetch_all", (store, read) -> sorted(windows(store).fetchAll(time(read, "from_ms"), time(read, "to_ms"))));
        READS.put("fetch_session", (store, read) -> one(
            new Windowed<>(key(read, "key"), new SessionWindow(read.get("from_ms").longValue(), read.get("to_ms").longValue())),
            sessions(store).fetchSession(key(read, "key"), time(read, "from_ms"), time(read, "to_ms"))));
        READS.put("sessions", (store, read) -> list(sessions(store).fetch(key(read, "key"))));
        READS.put("find_sessions", (store, read) ->
            list(sessions(store).findSessions(key(read, "key"), time(read, "from_ms"), time(read, "to_ms"))));
    }

    private StoreReader() {}

    /** Returns the <i>read</i> of the case with its result. */
    static ObjectNode read(TopologyTestDriver driver, Map<String, TopologyMaker.Types> types, JsonNode read) {
        String name = TopologyMaker.text(read, "store");
        TopologyMaker.Types typesOfStore = types.get(name);
        Read reading = READS.get(TopologyMaker.text(read, "read"));
        StateStore store = store(driver, name);
        ObjectNode whole = Golden.NODES.objectNode();
        whole.setAll((ObjectNode) read);
        ArrayNode result = whole.putArray("result");
        for (KeyValue<Object, Object> entry : reading.entries(store, read)) {
            ObjectNode one = result.addObject();
            if (entry.key instanceof Windowed<?> windowed) {
                typesOfStore.key().put(one, "key", windowed.key());
                one.putArray("window").add(windowed.window().start()).add(windowed.window().end());
            } else if (store instanceof WindowStore<?, ?>) {
                // The iterator of one key gives only the starts of its windows.
                typesOfStore.key().put(one, "key", key(read, "key"));
                one.putArray("window").add((Long) entry.key).add((Long) entry.key + typesOfStore.windowMs());
            } else {
                typesOfStore.key().put(one, "key", entry.key);
            }
            if (entry.value instanceof ValueAndTimestamp<?> stamped) {
                typesOfStore.value().put(one, "value", stamped.value());
                one.put("timestamp", stamped.timestamp());
            } else {
                typesOfStore.value().put(one, "value", entry.value);
            }
        }
        return whole;
    }

    private static StateStore store(TopologyTestDriver driver, String name) {
        StateStore store = driver.getAllStateStores().get(name);
        if (store == null) {
            throw new IllegalArgumentException("there is no store " + name);
        }
        return store;
    }

    private static List<KeyValue<Object, Object>> all(StateStore store, JsonNode read) {
        if (store instanceof WindowStore<?, ?>) {
            return sorted(windows(store).all());
        } else if (store instanceof SessionStore<?, ?>) {
            return sorted(sessions(store).findSessions(null, null, 0L, Long.MAX_VALUE));
        }
        return list(keyValues(store).all());
    }

    private static Object key(JsonNode read, String member) {
        return read.get(member).isNull() ? null : read.get(member).textValue();
    }

    private static Instant time(JsonNode read, String member) {
        return Instant.ofEpochMilli(read.get(member).longValue());
    }

    @SuppressWarnings("unchecked")
    private static KeyValueStore<Object, Object> keyValues(StateStore store) {
        return (KeyValueStore<Object, Object>) store;
    }

    @SuppressWarnings("unchecked")
    private static WindowStore<Object, Object> windows(StateStore store) {
        return (WindowStore<Object, Object>) store;
    }

    @SuppressWarnings("unchecked")
    private static SessionStore<Object, Object> sessions(StateStore store) {
        return (SessionStore<Object, Object>) store;
    }

    private static List<KeyValue<Object, Object>> one(Object key, Object value) {
        return value == null ? List.of() : List.of(KeyValue.pair(key, value));
    }

    private static <K> List<KeyValue<Object, Object>> list(KeyValueIterator<K, Object> entries) {
        List<KeyValue<Object, Object>> found = new ArrayList<>();
        entries.forEachRemaining(entry -> found.add(KeyValue.pair(entry.key, entry.value)));
        entries.close();
        return found;
    }

    private static <K> List<KeyValue<Object, Object>> sorted(KeyValueIterator<Windowed<K>, Object> entries) {
        List<KeyValue<Object, Object>> found = list(entries);
        found.sort(Comparator
            .comparing((KeyValue<Object, Object> entry) -> bytes(entry.key), Arrays::compareUnsigned)
            .thenComparing(entry -> ((Windowed<?>) entry.key).window().start())
            .thenComparing(entry -> ((Windowed<?>) entry.key).window().end()));
        return found;
    }

    private static byte[] bytes(Object windowed) {
        return ((String) ((Windowed<?>) windowed).key()).getBytes(java.nio.charset.StandardCharsets.UTF_8);
    }
}
