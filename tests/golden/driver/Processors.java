import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/** The processors of the cases, written with the Processor API. */
final class Processors {

    record Setting(String store, long intervalMs, boolean isWallClock) {}

    /** A processor, the type of what it stores and of what it forwards: null for that of the stream's values. */
    record Kind(Type stored, Type forwarded, Function<Setting, Processor<Object, Object, Object, Object>> make) {}

    static final Map<String, Kind> KINDS = new TreeMap<>(Map.of(
        "first_of_key", new Kind(null, null, FirstOfKey::new),
        "buffer_until_punctuated", new Kind(null, null, BufferUntilPunctuated::new),
        "note_punctuations", new Kind(Type.LONG, Type.STRING, NotePunctuations::new)));

    private Processors() {}

    private abstract static class Base implements Processor<Object, Object, Object, Object> {
        final Setting setting;
        ProcessorContext<Object, Object> context;
        KeyValueStore<Object, Object> store;

        Base(Setting setting) {
            this.setting = setting;
        }

        @Override
        public void init(ProcessorContext<Object, Object> given) {
            context = given;
            store = context.getStateStore(setting.store());
            if (setting.intervalMs() > 0) {
                PunctuationType type = setting.isWallClock() ? PunctuationType.WALL_CLOCK_TIME : PunctuationType.STREAM_TIME;
                context.schedule(Duration.ofMillis(setting.intervalMs()), type, this::punctuate);
            }
        }

        void punctuate(long timeMs) {}
    }

    private static final class FirstOfKey extends Base {
        FirstOfKey(Setting setting) {
            super(setting);
        }

        @Override
        public void process(Record<Object, Object> record) {
            if (store.get(record.key()) == null) {
                context.forward(record);
            }
            store.put(record.key(), record.value());
        }
    }

    private static final class BufferUntilPunctuated extends Base {
        BufferUntilPunctuated(Setting setting) {
            super(setting);
        }

        @Override
        public void process(Record<Object, Object> record) {
            store.put(record.key(), record.value());
        }

        @Override
        void punctuate(long timeMs) {
            List<KeyValue<Object, Object>> entries = new ArrayList<>();
            try (KeyValueIterator<Object, Object> all = store.all()) {
                all.forEachRemaining(entries::add);
            }
            for (KeyValue<Object, Object> entry : entries) {
                context.forward(new Record<>(entry.key, entry.value, timeMs));
                store.delete(entry.key);
            }
        }
    }

    private static final class NotePunctuations extends Base {
        NotePunctuations(Setting setting) {
            super(setting);
        }

        @Override
        public void process(Record<Object, Object> record) {}

        @Override
        void punctuate(long timeMs) {
            Object before = store.get("count");
            long number = before == null ? 1 : (Long) before + 1;
            store.put("count", number);
            context.forward(new Record<>("punctuated", timeMs + "#" + number, timeMs));
        }
    }
}
