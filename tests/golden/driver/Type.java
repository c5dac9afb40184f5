import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.HexFormat;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.kstream.SessionWindowedDeserializer;
import org.apache.kafka.streams.kstream.SessionWindowedSerializer;
import org.apache.kafka.streams.kstream.TimeWindowedDeserializer;
import org.apache.kafka.streams.kstream.TimeWindowedSerializer;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.kstream.internals.TimeWindow;

/** A type of a case: its name in JSON, its serde, and the way between JSON and Java's values. */
record Type(String name, Serde<Object> serde, Type inner) {

    static final Type STRING = plain("string", Serdes.String());
    static final Type LONG = plain("long", Serdes.Long());

    private static Type plain(String name, Serde<?> serde) {
        return new Type(name, untyped(serde), null);
    }

    @SuppressWarnings("unchecked")
    static Serde<Object> untyped(Serde<?> serde) {
        return (Serde<Object>) serde;
    }

    static Type named(String name) {
        return switch (name) {
            case "string" -> STRING;
            case "long" -> LONG;
            case "integer" -> plain(name, Serdes.Integer());
            case "double" -> plain(name, Serdes.Double());
            case "float" -> plain(name, Serdes.Float());
            case "short" -> plain(name, Serdes.Short());
            case "boolean" -> plain(name, Serdes.Boolean());
            case "bytes" -> plain(name, Serdes.ByteArray());
            default -> throw new IllegalArgumentException("unknown type " + name);
        };
    }

    static Type timeWindowed(Type inner, long sizeMs) {
        Serde<?> serde = Serdes.serdeFrom(
            new TimeWindowedSerializer<>(inner.serde.serializer()),
            new TimeWindowedDeserializer<>(inner.serde.deserializer(), sizeMs));
        return new Type("time_windowed<" + inner.name + ">", untyped(serde), inner);
    }

    static Type sessionWindowed(Type inner) {
        Serde<?> serde = Serdes.serdeFrom(
            new SessionWindowedSerializer<>(inner.serde.serializer()),
            new SessionWindowedDeserializer<>(inner.serde.deserializer()));
        return new Type("session_windowed<" + inner.name + ">", untyped(serde), inner);
    }

    /** The bytes of the member <i>name</i> of a record, given as a value or, with `_hex`, as they are. */
    byte[] bytesOf(JsonNode record, String name) {
        if (record.has(name + "_hex")) {
            return HexFormat.of().parseHex(record.get(name + "_hex").textValue());
        }
        return serde.serializer().serialize("", fromJson(record.get(name), record.get("window")));
    }

    Object fromJson(JsonNode value, JsonNode window) {
        if (value == null || value.isNull()) {
            return null;
        }
        if (inner != null) {
            long start = window.get(0).longValue();
            long end = window.get(1).longValue();
            boolean isSession = name.startsWith("session");
            return new Windowed<>(inner.fromJson(value, null), isSession ? new SessionWindow(start, end) : new TimeWindow(start, end));
        }
        return switch (name) {
            case "string" -> text(value);
            case "long" -> whole(value);
            case "integer" -> Math.toIntExact(whole(value));
            case "short" -> (short) Math.toIntExact(whole(value));
            case "double" -> value.isTextual() ? Double.parseDouble(value.textValue()) : value.doubleValue();
            case "float" -> value.isTextual() ? Float.parseFloat(value.textValue()) : (float) value.doubleValue();
            case "boolean" -> value.booleanValue();
            case "bytes" -> HexFormat.of().parseHex(text(value));
            default -> throw new IllegalStateException(name);
        };
    }

    private static String text(JsonNode value) {
        if (!value.isTextual()) {
            throw new IllegalArgumentException(value + " is no text");
        }
        return value.textValue();
    }

    private static long whole(JsonNode value) {
        if (!value.isIntegralNumber()) {
            throw new IllegalArgumentException(value + " is no whole number");
        }
        return value.longValue();
    }

    /** Writes a key or value into <i>record</i>; a windowed one takes two members. */
    void put(ObjectNode record, String member, Object value) {
        if (value instanceof Windowed<?> windowed) {
            inner.put(record, member, windowed.key());
            ArrayNode window = record.putArray("window");
            window.add(windowed.window().start()).add(windowed.window().end());
            return;
        }
        record.set(member, toJson(value));
    }

    private static JsonNode toJson(Object value) {
        JsonNodeFactory json = JsonNodeFactory.instance;
        if (value == null) {
            return json.nullNode();
        } else if (value instanceof String text) {
            return json.textNode(text);
        } else if (value instanceof Long number) {
            return json.numberNode(number);
        } else if (value instanceof Integer number) {
            return json.numberNode(number);
        } else if (value instanceof Double number) {
            return json.numberNode(number);
        }
        throw new IllegalArgumentException("no JSON for " + value.getClass());
    }
}
