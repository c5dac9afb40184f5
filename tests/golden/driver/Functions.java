import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.kstream.Windowed;

/** The vocabulary of functions of the cases; README.md says what each means, and a test compares the names. */
final class Functions {

    /** A function of a case threw: what a user's function would do. */
    static final class FunctionFailed extends RuntimeException {
        private static final long serialVersionUID = 1L;

        FunctionFailed(String message) {
            super(message);
        }
    }

    interface Predicate {
        boolean test(Object key, Object value);
    }

    interface Two {
        Object apply(Object first, Object second);
    }

    interface Three {
        Object apply(Object first, Object second, Object third);
    }

    /** Gives a value or key; `type` is that of the result, null for the type of the value. */
    record Mapper(Type type, Two apply) {}

    /** Gives pairs; a null type stands for what `types` says: key type, value type to pair of types. */
    record PairMapper(java.util.function.BiFunction<Type, Type, KeyValue<Type, Type>> types, Two apply) {}

    record Aggregation(Type type, Object initial, Three apply, Two merge) {}

    /** The type of a joiner's result: null for that of the left value. */
    record Joining(boolean isRight, Type type, Three apply) {}

    static final Map<String, Function<String, Predicate>> PREDICATES = new TreeMap<>();
    static final Map<String, Function<String, Mapper>> VALUE_MAPPERS = new TreeMap<>();
    static final Map<String, Function<String, Mapper>> FLAT_VALUE_MAPPERS = new TreeMap<>();
    static final Map<String, Function<String, PairMapper>> MAPPERS = new TreeMap<>();
    static final Map<String, Function<String, PairMapper>> FLAT_MAPPERS = new TreeMap<>();
    /** The type of a selector's result: null for that of the value, KEY and KEY_INSIDE for that of the key. */
    static final Map<String, Function<String, Mapper>> KEY_SELECTORS = new TreeMap<>();
    static final Map<String, Function<String, Two>> REDUCERS = new TreeMap<>();
    static final Map<String, Function<String, Aggregation>> AGGREGATORS = new TreeMap<>();
    static final Map<String, Function<String, Joining>> JOINERS = new TreeMap<>();

    static final Type KEY = new Type("key", null, null);
    static final Type KEY_INSIDE = new Type("key_inside", null, null);

    static {
        predicates();
        valueMappers();
        pairMappers();
        keySelectors();
        reducers();
        aggregators();
        joiners();
    }

    private Functions() {}

    static <T> T find(Map<String, Function<String, T>> functions, String text) {
        int blank = text.indexOf(' ');
        String name = blank < 0 ? text : text.substring(0, blank);
        String argument = blank < 0 ? null : text.substring(blank + 1);
        Function<String, T> function = functions.get(name);
        if (function == null) {
            throw new IllegalArgumentException("unknown function " + name + ", known here: " + functions.keySet());
        }
        return function.apply(argument);
    }

    static String text(Object value) {
        if (value == null) {
            return "null";
        } else if (value instanceof Windowed<?> windowed) {
            return text(windowed.key()) + "@" + windowed.window().start() + "/" + windowed.window().end();
        } else if (value instanceof String || value instanceof Long || value instanceof Integer) {
            return value.toString();
        }
        throw new IllegalArgumentException("no text for " + value.getClass());
    }

    private static void predicates() {
        PREDICATES.put("all", x -> (k, v) -> true);
        PREDICATES.put("none", x -> (k, v) -> false);
        PREDICATES.put("is_null", x -> (k, v) -> v == null);
        PREDICATES.put("length_gt", x -> (k, v) -> v != null && length(v) > Long.parseLong(x));
        PREDICATES.put("starts_with", x -> (k, v) -> v != null && ((String) v).startsWith(x));
        PREDICATES.put("value_is", x -> (k, v) -> v != null && text(v).equals(x));
        PREDICATES.put("key_is", x -> (k, v) -> text(k).equals(x));
        PREDICATES.put("greater_than", x -> (k, v) -> v != null && (Long) v > Long.parseLong(x));
    }

    private static void valueMappers() {
        value("identity", null, x -> v -> v);
        value("upper", null, x -> v -> ((String) v).toUpperCase(java.util.Locale.ROOT));
        value("reverse", null, x -> v -> reverse((String) v));
        value("length", Type.LONG, x -> v -> length(v));
        value("append", Type.STRING, x -> v -> text(v) + x);
        VALUE_MAPPERS.put("constant", x -> new Mapper(Type.STRING, (k, v) -> x));
        value("null_if", null, x -> v -> text(v).equals(x) ? null : v);
        value("to_long", Type.LONG, x -> v -> toLong((String) v));
        value("to_text", Type.STRING, x -> v -> text(v));
        value("before_colon", null, x -> v -> beforeColon((String) v));
        value("after_colon", null, x -> v -> afterColon((String) v));
        VALUE_MAPPERS.put("key_and_value", x -> new Mapper(Type.STRING, (k, v) -> text(k) + ":" + text(v)));
        value("fail_on", null, x -> v -> failOn(v, x));
        FLAT_VALUE_MAPPERS.put("split_words", x -> new Mapper(Type.STRING, (k, v) -> words((String) v)));
        FLAT_VALUE_MAPPERS.put("letters", x -> new Mapper(Type.STRING, (k, v) -> letters((String) v)));
    }

    private static void value(String name, Type type, Function<String, Function<Object, Object>> function) {
        VALUE_MAPPERS.put(name, x -> nullSafe(type, function.apply(x)));
    }

    private static Mapper nullSafe(Type type, Function<Object, Object> function) {
        return new Mapper(type, (k, v) -> v == null ? null : function.apply(v));
    }

    private static void pairMappers() {
        MAPPERS.put("swap", x -> new PairMapper((k, v) -> KeyValue.pair(v, k), (k, v) -> KeyValue.pair(v, k)));
        MAPPERS.put("key_from_first_letter", x -> new PairMapper(
            (k, v) -> KeyValue.pair(Type.STRING, v),
            (k, v) -> KeyValue.pair(v == null ? null : firstLetter((String) v), v)));
        MAPPERS.put("value_and_length", x -> new PairMapper(
            (k, v) -> KeyValue.pair(v, Type.LONG),
            (k, v) -> KeyValue.pair(v, v == null ? null : length(v))));
        FLAT_MAPPERS.put("words_to_keys", x -> new PairMapper(
            (k, v) -> KeyValue.pair(Type.STRING, k),
            (k, v) -> words((String) v).stream().map(word -> KeyValue.pair(word, k)).toList()));
        FLAT_MAPPERS.put("both_ways", x -> new PairMapper(
            (k, v) -> KeyValue.pair(k, v),
            (k, v) -> List.of(KeyValue.pair(k, v), KeyValue.pair(v, k))));
    }

    private static void keySelectors() {
        KEY_SELECTORS.put("value", x -> new Mapper(null, (k, v) -> v));
        KEY_SELECTORS.put("key", x -> new Mapper(KEY, (k, v) -> k));
        KEY_SELECTORS.put("first_letter", x -> nullSafe(Type.STRING, v -> firstLetter((String) v)));
        KEY_SELECTORS.put("before_colon", x -> nullSafe(Type.STRING, v -> beforeColon((String) v)));
        KEY_SELECTORS.put("after_colon", x -> nullSafe(Type.STRING, v -> afterColon((String) v)));
        KEY_SELECTORS.put("no_key", x -> new Mapper(Type.STRING, (k, v) -> null));
        KEY_SELECTORS.put("window_text", x -> new Mapper(Type.STRING, (k, v) -> text(k)));
        KEY_SELECTORS.put("window_key", x -> new Mapper(KEY_INSIDE, (k, v) -> ((Windowed<?>) k).key()));
    }

    private static void reducers() {
        reducer("concat", x -> (a, v) -> (String) a + v);
        reducer("sum", x -> (a, v) -> (Long) a + (Long) v);
        reducer("max", x -> (a, v) -> Math.max((Long) a, (Long) v));
        reducer("last", x -> (a, v) -> v);
        reducer("first", x -> (a, v) -> a);
        reducer("concat_or_null", x -> (a, v) -> text(v).equals(x) ? null : (String) a + v);
        reducer("plus", x -> (a, v) -> a + "+" + v);
        reducer("minus", x -> (a, v) -> a + "-" + v);
        reducer("subtract", x -> (a, v) -> (Long) a - (Long) v);
    }

    private static void reducer(String name, Function<String, Two> function) {
        REDUCERS.put(name, x -> (a, v) -> v == null ? null : function.apply(x).apply(a, v));
    }

    private static void aggregators() {
        Two concat = (a, b) -> (String) a + b;
        Two bar = (a, b) -> a + "|" + b;
        Two add = (a, b) -> (Long) a + (Long) b;
        texts("concat", concat, x -> (k, v, a) -> a + text(v));
        texts("list", bar, x -> (k, v, a) -> a + "[" + text(v) + "]");
        texts("list_or_null", bar, x -> (k, v, a) -> text(v).equals(x) ? null : (a == null ? "" : a) + "[" + text(v) + "]");
        texts("keys_and_values", concat, x -> (k, v, a) -> a + text(k) + text(v) + ";");
        texts("plus", concat, x -> (k, v, a) -> a + "+" + text(v));
        texts("minus", concat, x -> (k, v, a) -> a + "-" + text(v));
        longs("sum", add, x -> (k, v, a) -> (Long) a + (Long) v);
        longs("sum_length", add, x -> (k, v, a) -> (Long) a + length(v));
        longs("subtract", (a, b) -> (Long) a - (Long) b, x -> (k, v, a) -> (Long) a - (Long) v);
    }

    private static void texts(String name, Two merge, Function<String, Three> function) {
        AGGREGATORS.put(name, x -> new Aggregation(Type.STRING, "", function.apply(x), merge));
    }

    private static void longs(String name, Two merge, Function<String, Three> function) {
        AGGREGATORS.put(name, x -> new Aggregation(
            Type.LONG, 0L, (k, v, a) -> v == null ? a : function.apply(x).apply(k, v, a), merge));
    }

    private static void joiners() {
        Three concat = (k, l, r) -> text(l) + "+" + text(r);
        JOINERS.put("concat_with_plus", x -> new Joining(false, Type.STRING, concat));
        JOINERS.put("with_key", x -> new Joining(
            false, Type.STRING, (k, l, r) -> text(k) + ":" + text(l) + "+" + text(r)));
        JOINERS.put("left", x -> new Joining(false, null, (k, l, r) -> l));
        JOINERS.put("right", x -> new Joining(true, null, (k, l, r) -> r));
        JOINERS.put("null_if_equal", x -> new Joining(
            false, Type.STRING, (k, l, r) -> text(l).equals(text(r)) ? null : concat.apply(k, l, r)));
    }


    private static long length(Object value) {
        String text = (String) value;
        return text.codePointCount(0, text.length());
    }

    private static String reverse(String value) {
        return new StringBuilder(value).reverse().toString();
    }

    private static String firstLetter(String value) {
        return value.isEmpty() ? null : value.substring(0, value.offsetByCodePoints(0, 1));
    }

    private static String beforeColon(String value) {
        return value.contains(":") ? value.substring(0, value.indexOf(':')) : null;
    }

    private static String afterColon(String value) {
        return value.contains(":") ? value.substring(value.indexOf(':') + 1) : null;
    }

    private static Object toLong(String value) {
        try {
            return Long.parseLong(value);
        } catch (NumberFormatException error) {
            throw new FunctionFailed("no number: " + value);
        }
    }

    private static Object failOn(Object value, String poison) {
        if (text(value).equals(poison)) {
            throw new FunctionFailed("told to fail on " + poison);
        }
        return value;
    }

    private static List<Object> words(String value) {
        return value == null
            ? List.of()
            : new ArrayList<>(Arrays.stream(value.split(" ")).filter(word -> !word.isEmpty()).toList());
    }

    private static List<Object> letters(String value) {
        return value == null ? List.of() : new ArrayList<>(value.codePoints().mapToObj(Character::toString).toList());
    }
}
