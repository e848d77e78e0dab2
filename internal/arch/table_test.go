package arch

// module is this project's.
const module = "github.com/dewpoint-cloud/dewpoint"

// line is what one package may import besides the standard library and errdefs.
type line struct {
	path    string            // of the package in the module; "." is the root
	ours    []string          // of this module, paths like the above
	outside map[string]string // modules of others, or packages in them, each with the reason
}

const (
	uuids      = "ids that need no coordination"
	linux      = "system calls that the standard library lacks"
	netlinks   = "talks to the kernel without running programs; one family of libraries for all of it"
	memdb      = "the indexed view with snapshots; hand-written it would be a database"
	domainXML  = "566 types of libvirt's XML, tested against it"
	modelTests = "a suite that checks a store by itself must bring its checker"
)

// house lists all packages, from the ground up.
var house = []line{
	// What tests stand on.
	{path: "internal/arch"},
	{path: "internal/testneed"},
	{path: "internal/benchline"},
	{path: "internal/freeport"},
	{path: "internal/rabbittest", ours: []string{"internal/freeport", "internal/testneed"}},
	{path: "internal/kinetest", ours: []string{"internal/freeport", "internal/testneed"}},
	{path: "internal/initramfs"},
	{path: "internal/testguest", ours: []string{"internal/initramfs", "internal/testneed"}},
	{path: "internal/nodevm", ours: []string{"internal/initramfs", "internal/testneed"}},
	{path: "internal/netns", outside: map[string]string{"golang.org/x/sys": linux}},
	{path: "internal/netnstest", ours: []string{"internal/netns", "internal/testneed"}, outside: map[string]string{
		"github.com/vishvananda/netns": "makes network namespaces", "golang.org/x/sys": linux,
		"github.com/mdlayher/netlink": netlinks,
		"github.com/mdlayher/packet":  "frames as a guest sends them"}},

	// Floor 0: records and transactions; messages.
	{path: "state/internal/feed"},
	{path: "state", ours: []string{"state/internal/feed"}, outside: map[string]string{"github.com/hashicorp/go-memdb": memdb}},
	{path: "state/memstate", ours: []string{"state", "state/internal/feed"}},
	{path: "state/bolt", ours: []string{"state", "state/internal/feed"}, outside: map[string]string{
		"go.etcd.io/bbolt": "a file that survives any crash is not to be hand-written", "golang.org/x/sys": linux}},
	{path: "state/etcd/internal/zaplog", outside: map[string]string{"go.uber.org/zap": "what etcd logs with"}},
	{path: "state/etcd", ours: []string{"state", "state/internal/feed", "state/etcd/internal/zaplog"}, outside: map[string]string{
		"go.etcd.io/etcd/api/v3": "the names of its errors", "go.etcd.io/etcd/client/v3": "speaks to etcd, with its balancing and its watches",
		"go.uber.org/zap": "what etcd logs with", "google.golang.org/grpc": "tells which requests never left, and why"}},
	{path: "state/etcd/etcdserver", ours: []string{"state/etcd/internal/zaplog"}, outside: map[string]string{
		"go.etcd.io/etcd": "a member of etcd in the host program"}},
	{path: "state/statetest", ours: []string{"state"}, outside: map[string]string{
		"pgregory.net/rapid": modelTests, "github.com/anishathalye/porcupine": modelTests}},
	{path: "state/operation", ours: []string{"state"}, outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "state/operation/optest", ours: []string{"state", "state/operation"}},
	{path: "queue", outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "queue/memqueue", ours: []string{"queue"}},
	{path: "queue/queuetest", ours: []string{"queue"}},
	{path: "queue/amqp", ours: []string{"queue"}, outside: map[string]string{
		"github.com/rabbitmq/amqp091-go": "the wire protocol of RabbitMQ, by its makers"}},
	{path: "queue/nats/natsserver", outside: map[string]string{
		"github.com/nats-io/nats-server/v2/server": "a cloud that needs no service besides its own programs"}},
	{path: "queue/nats", ours: []string{"queue"}, outside: map[string]string{
		"github.com/nats-io/nats.go": "NATS's own client"}},

	// Floor 1: who may do what, and how much.
	{path: "auth", ours: []string{"state"}, outside: map[string]string{"github.com/google/uuid": uuids,
		"golang.org/x/crypto": "the format of SSH keys, password hashes"}},

	{path: "auth/ca"},

	// Floor 2: the domains. Each knows those below it in this list; none knows a driver.
	{path: "image/inspect"},
	{path: "image/internal/qemuimg", ours: []string{"image/inspect"}, outside: map[string]string{"golang.org/x/sys": linux}},
	{path: "image/internal/ext4"},
	{path: "image", ours: []string{"auth", "state", "state/operation", "queue", "image/inspect", "image/internal/ext4", "image/internal/qemuimg"},
		outside: map[string]string{"github.com/google/uuid": uuids, "golang.org/x/sys": linux}},
	{path: "image/blobtest", ours: []string{"image"}},
	// It asks auth whether its caller may see and disable hosts.
	{path: "scheduler", ours: []string{"auth", "state", "state/operation", "queue"}, outside: map[string]string{"github.com/google/uuid": uuids}},
	// It asks the scheduler which hosts get nothing new.
	{path: "volume/internal/keylock"},
	{path: "volume", ours: []string{"auth", "image", "queue", "scheduler", "state", "state/operation", "volume/internal/keylock"}, outside: map[string]string{
		"github.com/google/uuid": uuids}},
	{path: "volume/fakevolume", ours: []string{"volume"}, outside: map[string]string{"github.com/google/uuid": uuids,
		"golang.org/x/sys": linux}},
	{path: "volume/file", ours: []string{"volume", "volume/internal/keylock"}, outside: map[string]string{"github.com/google/uuid": uuids,
		"golang.org/x/sys": linux}},
	{path: "volume/lvm", ours: []string{"volume", "volume/internal/keylock"}, outside: map[string]string{"github.com/google/uuid": uuids,
		"golang.org/x/sys": linux}},
	{path: "volume/iscsi/internal/pdu"},
	{path: "volume/iscsi/internal/disk", outside: map[string]string{
		"github.com/gostor/gotgt/pkg/scsi": "what a disk says of itself in SCSI", "github.com/gostor/gotgt/pkg/api": "its types"}},
	{path: "volume/iscsi", ours: []string{"volume", "volume/iscsi/internal/pdu", "volume/iscsi/internal/disk"}, outside: map[string]string{
		"golang.org/x/sys": linux}},
	{path: "volume/volumetest", ours: []string{"volume"}, outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "network", ours: []string{"auth", "state"}, outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "network/linux", ours: []string{"internal/netns", "network"}, outside: map[string]string{
		"github.com/google/nftables": "the packet filter, in one atomic transaction", "github.com/mdlayher/netlink": netlinks,
		"golang.org/x/sys": linux}},
	{path: "network/dhcp", ours: []string{"internal/netns", "network"}, outside: map[string]string{
		"github.com/insomniacslk/dhcp": "the format of DHCP, with its years of hostile packets",
		"github.com/mdlayher/packet":   "answers to clients that have no address yet", "github.com/mdlayher/netlink": netlinks,
		"golang.org/x/net": "filters on sockets", "golang.org/x/sys": linux}},
	{path: "network/linklocal", ours: []string{"internal/netns", "network"}, outside: map[string]string{"github.com/mdlayher/netlink": netlinks,
		"golang.org/x/sys": linux}},
	{path: "network/ra", ours: []string{"internal/netns", "network"}, outside: map[string]string{
		"github.com/mdlayher/ndp": "the format of neighbor discovery", "golang.org/x/net": "filters on sockets", "golang.org/x/sys": linux,
		"github.com/insomniacslk/dhcp": "the format of DHCPv6"}},
	{path: "network/fakenetwork", ours: []string{"network"}},
	{path: "network/networktest", ours: []string{"network"}},
	{path: "compute/guestdata"},
	{path: "compute/internal/configdrive", ours: []string{"compute/guestdata"}, outside: map[string]string{
		"github.com/kdomanski/iso9660": "a file system that every guest can read, in pure Go"}},
	{path: "compute", ours: []string{"auth", "compute/guestdata", "compute/internal/configdrive", "image", "network", "queue", "scheduler", "state", "state/operation", "volume"},
		outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "compute/libvirt", ours: []string{"compute"}, outside: map[string]string{
		"github.com/digitalocean/go-libvirt": "libvirt's protocol without its C library",
		"libvirt.org/go/libvirtxml":          domainXML, "github.com/google/uuid": uuids, "golang.org/x/sys": linux}},
	{path: "compute/openiscsi", ours: []string{"compute"}},
	{path: "compute/fakecompute", ours: []string{"compute"}, outside: map[string]string{"github.com/google/uuid": uuids}},
	{path: "compute/computetest", ours: []string{"compute"}, outside: map[string]string{"github.com/google/uuid": uuids}},

	// Floor 3: the composition.
	{path: ".", ours: []string{"auth", "compute", "image", "image/inspect", "network", "queue", "queue/memqueue", "scheduler",
		"state", "state/memstate", "state/operation", "volume"},
		outside: map[string]string{"github.com/google/uuid": uuids, "golang.org/x/sync": "waits for all parts of a cloud"}},

	// Floor 4: faces, one for each wire format.
	{path: "api/metadata", ours: []string{"compute", "compute/guestdata", "network", "state"}},
	{path: "api/cluster", ours: []string{"auth/ca", "image"}, outside: map[string]string{"github.com/google/uuid": uuids}},

	// Beside the faces: whole clouds for tests, of fakes and of nothing real.
	{path: "dewpointtest", ours: []string{".", "auth", "compute", "compute/fakecompute", "image", "network", "network/fakenetwork",
		"queue", "queue/memqueue", "scheduler", "state", "state/memstate", "state/operation"}},

	// Floor 5: programs. They alone choose drivers.
	{path: "internal/libvirtd", ours: []string{"internal/netns", "internal/testneed"}, outside: map[string]string{"golang.org/x/sys": linux}},
	{path: "examples/minicloud/guest", ours: []string{"internal/initramfs"}},
	{path: "examples/minicloud", ours: []string{".", "api/cluster", "api/metadata", "auth", "auth/ca", "compute", "compute/libvirt", "compute/openiscsi", "examples/minicloud/guest", "image",
		"image/inspect", "internal/libvirtd", "internal/netns", "network", "network/dhcp", "network/linklocal", "network/linux", "network/ra", "queue",
		"queue/amqp", "queue/memqueue", "queue/nats", "queue/nats/natsserver", "scheduler", "state", "state/bolt", "state/etcd",
		"state/etcd/etcdserver", "volume", "volume/fakevolume", "volume/file", "volume/iscsi"},
		outside: map[string]string{"golang.org/x/sys": linux, "golang.org/x/sync": "waits for all parts of a node",
			"go.yaml.in/yaml/v3": "the format that administrators expect of a configuration file"}},
	{path: "examples/quickstart", ours: []string{".", "compute/libvirt", "network/dhcp", "network/linux", "state/bolt"}},
	{path: "examples/embed", ours: []string{".", "auth", "compute", "compute/fakecompute", "image", "network",
		"network/fakenetwork", "scheduler", "state", "volume/fakevolume"}},
}

// rooms are the packages with an interface for others to implement. What lies in the directory of a room is a driver, a
// fake or a suite, and imports the room alone, unless it is a part of it, below.
var rooms = []string{"state", "queue", "network", "volume", "compute"}

// parts are packages of a room that are neither driver, fake nor suite.
var parts = []string{"state/internal/feed", "state/operation", "compute/guestdata"}

// everywhere may be imported by all.
var everywhere = map[string]string{
	"github.com/containerd/errdefs": "the classes of errors",
}

// inTests may be imported by files of tests only, besides what a line allows.
var inTests = map[string]string{
	"github.com/kdomanski/iso9660":        "reads config drives",
	"github.com/stretchr/testify/require": "require alone: after the first failure the rest is noise",
	"go.uber.org/goleak":                  "each goroutine ends",
	"pgregory.net/rapid":                  "random inputs that shrink",
	"github.com/anishathalye/porcupine":   "linearizability",
	"github.com/google/go-cmp":            "differences of large values",
	"github.com/insomniacslk/dhcp":        "plays a guest that wants an address",
	"github.com/mdlayher/ndp":             "plays a guest that asks for a router",
	"github.com/mdlayher/packet":          "plays a guest that sends what it likes",
	"github.com/mdlayher/netlink":         "looks at what the kernel has",
	"github.com/google/nftables":          "looks at what the kernel has",
	"github.com/vishvananda/netns":        "a namespace for each test",
	"github.com/digitalocean/go-libvirt":  "plays a libvirtd",
	"libvirt.org/go/libvirtxml":           "reads what was defined",
	"go.etcd.io/bbolt":                    "looks into files, and damages them",
	"github.com/nats-io/nats.go":          "the bare client, beside which the bus is measured",
	"golang.org/x/crypto":                 "uses the keys that were made",
	"golang.org/x/net":                    "writes packets",
	"golang.org/x/sync":                   "starts many at once",
	"golang.org/x/sys":                    linux,
	"github.com/google/uuid":              uuids,
	"github.com/rabbitmq/amqp091-go":      "looks into queues, and is the peer of benchmarks",
}

// standard are packages of the standard library that only some may import; a path covers what is below it. Tests are free.
var standard = map[string]struct {
	reason string
	may    []string
}{
	"C":         {"everything builds without a C compiler", nil},
	"flag":      {"a library has no command line", []string{"examples"}},
	"log":       {"a *slog.Logger comes in by Config", []string{"examples"}},
	"os/signal": {"signals belong to the program", []string{"examples", "internal/libvirtd"}},
	"expvar":    {"it registers itself in a global", nil},
	"math/rand": {"its generator is global, and predictable where names must not be; math/rand/v2 or crypto/rand", nil},
	"net/http":  {"faces live in api/, and the rest of the house speaks no HTTP", []string{"api", "examples"}},
	"os/exec": {"what runs programs of the host stays countable", []string{"image/internal/qemuimg", "image/internal/ext4", "internal/libvirtd",
		"internal/testneed", "internal/kinetest", "internal/netnstest", "internal/nodevm", "internal/initramfs", "internal/testguest", "internal/rabbittest", "examples/minicloud", "volume/lvm", "compute/openiscsi"}},
	"testing": {"only suites and test rigs are for tests", []string{"internal", "state/statetest", "state/operation/optest",
		"queue/queuetest", "image/blobtest", "volume/volumetest", "network/networktest", "compute/computetest", "dewpointtest"}},
	"testing/synctest": {"only tests have a clock of their own", []string{"internal", "state/statetest", "state/operation/optest",
		"queue/queuetest", "volume/volumetest", "network/networktest", "compute/computetest", "dewpointtest"}},
	"unsafe": {"memory is safe, but for the few calls that the kernel wants so", []string{"network/linux", "network/dhcp", "network/linklocal",
		"internal/netnstest"}},
}
