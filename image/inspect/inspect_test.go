package inspect

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// at is a megabyte of zeros with text at an offset; a negative one counts from the end.
func at(off int, text string) []byte {
	b := make([]byte, 1<<20)
	if off < 0 {
		off += len(b)
	}
	copy(b[off:], text)
	return b
}

func TestContainersAreNeitherRawNorBootFiles(t *testing.T) {
	rows := []struct {
		found   string
		content []byte
	}{
		{"qcow2", newImage()},
		{"qcow2", at(0, "QFI\xfb\x00\x00\x00\x02")},
		{"qcow2", at(0, "QFI\xfb\xff\xff\xff\xff")},
		{"qcow2", []byte("QFI\xfb")},
		{"qcow", at(0, "QFI\xfb\x00\x00\x00\x01")},
		{"qed", at(0, "QED\x00")},
		{"vmdk", at(0, "KDMV\x01\x00\x00\x00")},
		{"vmdk", at(0, "COWD")},
		{"vmdk", at(0, "\xbe\xba\xfe\xca\x00\x00\x00\x00")},
		{"vmdk", []byte("# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"/etc/shadow\" 0\n")},
		{"vmdk", []byte("# disk descriptorFILE\r\nwhatever")},
		{"vmdk", []byte("# hello\n  \n#\nversion=3\n")},
		{"vmdk", []byte("version=2\r\n")},
		{"vmdk", []byte("\n\n version = 1\n")},
		{"vmdk", []byte(strings.Repeat("# padding\n", 4000) + "version=1\n")},
		{"vdi", at(64, "\x7f\x10\xda\xbe")},
		{"vhd", at(0, "conectix")},
		{"vhd", at(-512, "conectix")},
		{"vhd", at(-511, "conectix")},
		{"vhdx", at(0, "vhdxfile")},
		{"parallels", at(0, "WithoutFreeSpace")},
		{"parallels", at(0, "WithouFreSpacExt")},
		{"luks", at(0, "LUKS\xba\xbe\x00\x01")},
		{"luks", at(0, "LUKS\xba\xbe\x00\x02")},
		{"bochs", at(0, "Bochs Virtual HD Image")},
		{"cloop", at(0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop")},
		{"dmg", at(-512, "koly")},
	}
	for _, row := range rows {
		t.Run(row.found, func(t *testing.T) {
			found, err := Detect(bytes.NewReader(row.content), int64(len(row.content)))
			require.NoError(t, err)
			require.Equal(t, row.found, found)
			for _, declared := range []Format{Raw, Kernel, Ramdisk} {
				_, err := check(declared, row.content)
				var refusal *Refusal
				require.ErrorAs(t, err, &refusal)
				require.Contains(t, refusal.Problem, row.found)
			}
			if row.found != "qcow2" {
				_, err := check(QCOW2, row.content)
				require.ErrorContains(t, err, "not qcow2 but "+row.found)
			}
		})
	}
}

func TestRawAccepted(t *testing.T) {
	rows := map[string][]byte{
		"zeros":              at(0, ""),
		"MBR":                at(510, "\x55\xaa"),
		"GPT":                at(512, "EFI PART"),
		"ISO 9660":           at(32769, "CD001"),
		"ext4":               at(0x438, "\x53\xef"),
		"a qcow2 not at 0":   at(512, "QFI\xfb\x00\x00\x00\x03"),
		"one sector":         make([]byte, 512),
		"text":               []byte("hello\n"),
		"a word in a script": []byte("#!/bin/sh\necho version=1\n"),
	}
	for name, content := range rows {
		t.Run(name, func(t *testing.T) {
			info, err := check(Raw, content)
			require.NoError(t, err)
			require.Equal(t, Raw, info.Format)
			require.Equal(t, int64((len(content)+511)/512*512), info.VirtualBytes)
			_, err = check(QCOW2, content)
			require.ErrorContains(t, err, "not qcow2 but raw")
		})
	}
}

func TestPackedFilesAreNotRawButMayBoot(t *testing.T) {
	for _, s := range packed() {
		t.Run(s.name, func(t *testing.T) {
			content := at(int(s.off), s.mark)
			_, err := check(Raw, content)
			require.ErrorContains(t, err, s.name)
			require.ErrorContains(t, err, "unpack it")
			info, err := check(Ramdisk, content)
			require.NoError(t, err)
			require.Equal(t, Info{Format: Ramdisk, VirtualBytes: 1 << 20}, info)
		})
	}
}

func TestBoundsOfWhatIsDeclared(t *testing.T) {
	limits := Limits{MaxVirtualBytes: 1 << 20, MaxBootBytes: 1000}
	_, err := Check(Raw, bytes.NewReader(make([]byte, 1<<20)), 1<<20, limits)
	require.NoError(t, err)
	_, err = Check(Raw, bytes.NewReader(make([]byte, 1<<20+1)), 1<<20+1, limits)
	require.ErrorContains(t, err, "1048577 bytes, over the limit of 1048576")
	_, err = Check(QCOW2, bytes.NewReader(newImage()), int64(len(newImage())), limits)
	require.ErrorContains(t, err, "10485760 bytes, over the limit of 1048576")
	_, err = Check(Kernel, bytes.NewReader(make([]byte, 1001)), 1001, limits)
	require.ErrorContains(t, err, "1001 bytes, over the limit of 1000")

	for _, format := range []Format{Raw, QCOW2, Kernel, Ramdisk} {
		_, err = check(format, nil)
		require.ErrorContains(t, err, "it is empty (0 bytes)")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
	for _, format := range []Format{"", "vmdk", "QCOW2", "iso"} {
		_, err = check(format, make([]byte, 512))
		require.ErrorContains(t, err, "must be raw, qcow2, aki or ari")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}
