// The emulator's own test.
int main() { return 0; }
