final class Greeting {
    private Greeting() {}

    static String text() {
        return "hello from java-main " + Runtime.version().feature() + "\n";
    }
}
