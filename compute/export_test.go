package compute

// Hostname is hostname, for the fuzz test.
func Hostname(name, id string) string { return hostname(name, id) }
