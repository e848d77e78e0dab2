package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
)

func TestGeneratedKeys(t *testing.T) {
	r := newRig(t)
	ctx := NewContext(t.Context(), Caller{UserID: "ann", ProjectID: "weather"})
	for _, typ := range []KeyType{Ed25519, RSA, ""} {
		name := fmt.Sprintf("key %q", typ)
		k, private, err := r.CreateKeyPair(ctx, KeyPairSpec{Name: name, Type: typ})
		require.NoError(t, err)
		if typ == "" {
			typ = Ed25519
		}
		require.Equal(t, typ, k.Type)
		require.Equal(t, "ann", k.UserID)

		signer, err := ssh.ParsePrivateKey(private)
		require.NoError(t, err)
		public, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(k.PublicKey))
		require.NoError(t, err)
		require.Equal(t, name, comment)
		require.Empty(t, options)
		require.Empty(t, rest)
		require.NotContains(t, k.PublicKey, "\n")
		require.Equal(t, signer.PublicKey().Marshal(), public.Marshal())
		signature, err := signer.Sign(rand.Reader, []byte("dew"))
		require.NoError(t, err)
		require.NoError(t, public.Verify([]byte("dew"), signature))
		require.Equal(t, ssh.FingerprintSHA256(public), k.FingerprintSHA256)
		require.Equal(t, ssh.FingerprintLegacyMD5(public), k.FingerprintMD5)
		if c, ok := public.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey); ok {
			require.Equal(t, rsaBits, c.N.BitLen())
		}

		got, err := r.GetKeyPair(ctx, "", name)
		require.NoError(t, err)
		require.Equal(t, k, got)
		require.NoError(t, r.store.View(func(v *state.View) error {
			found, err := FindKeyPair(v, "ann", name)
			require.Equal(t, k, found)
			return err
		}))
		inner := bytes.Split(private, []byte("\n"))[3]
		for b := range r.log.Follow(t.Context(), 0) {
			for _, op := range b.Ops {
				require.NotContains(t, string(op.Value), string(inner), "the private half is nowhere on record")
				require.NotContains(t, string(op.Value), "PRIVATE")
			}
			break
		}
	}
}

func TestLifeOfAKeyPair(t *testing.T) {
	r := newRig(t)
	ann := NewContext(t.Context(), Caller{UserID: "ann"})
	bob := NewContext(t.Context(), Caller{UserID: "bob"})
	k, _, err := r.CreateKeyPair(ann, KeyPairSpec{Name: "laptop"})
	require.NoError(t, err)
	_, _, err = r.CreateKeyPair(ann, KeyPairSpec{Name: "laptop", Type: RSA})
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	_, err = r.ImportKeyPair(ann, KeyPairSpec{Name: "laptop", PublicKey: k.PublicKey})
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	imported, err := r.ImportKeyPair(bob, KeyPairSpec{Name: "laptop", PublicKey: "  " + k.PublicKey + "\n"})
	require.NoError(t, err, "names are a user's own, and keys may be many users'")
	require.Equal(t, k.PublicKey, imported.PublicKey)
	require.Equal(t, k.FingerprintSHA256, imported.FingerprintSHA256)
	second, _, err := r.CreateKeyPair(ann, KeyPairSpec{UserID: "ann", Name: "desk"})
	require.NoError(t, err)

	keys, err := r.ListKeyPairs(ann, "")
	require.NoError(t, err)
	require.Equal(t, []KeyPair{second, k}, keys)
	_, err = r.GetKeyPair(bob, "ann", "laptop")
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	require.ErrorIs(t, r.DeleteKeyPair(bob, "ann", "laptop"), errdefs.ErrPermissionDenied)
	_, err = r.GetKeyPair(bob, "", "desk")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, r.DeleteKeyPair(ann, "", "laptop"))
	require.ErrorIs(t, r.DeleteKeyPair(ann, "", "laptop"), errdefs.ErrNotFound)
	keys, err = r.ListKeyPairs(admin(t), "bob")
	require.NoError(t, err)
	require.Equal(t, []KeyPair{imported}, keys)
	require.NoError(t, r.DeleteKeyPair(admin(t), "bob", "laptop"))
	_, _, err = r.CreateKeyPair(admin(t), KeyPairSpec{UserID: "bob", Name: "x"})
	require.ErrorIs(t, err, errdefs.ErrNotFound, "an administrator names users on record")

	gone := r.user("gone")
	ctx := r.as(gone, "")
	_, _, err = r.CreateKeyPair(ctx, KeyPairSpec{Name: "x"})
	require.NoError(t, err)
	require.NoError(t, r.DeleteUser(admin(t), gone.ID))
	_, _, err = r.CreateKeyPair(ctx, KeyPairSpec{Name: "y"})
	require.ErrorIs(t, err, errdefs.ErrNotFound, "a context outlives its user")
}

func TestTooManyKeyPairs(t *testing.T) {
	r := newRig(t)
	ctx := admin(t)
	k, _, err := r.CreateKeyPair(ctx, KeyPairSpec{Name: "0"})
	require.NoError(t, err)
	for n := 1; n < MaxKeyPairs; n++ {
		_, err := r.ImportKeyPair(ctx, KeyPairSpec{Name: fmt.Sprint(n), PublicKey: k.PublicKey})
		require.NoError(t, err)
	}
	_, err = r.ImportKeyPair(ctx, KeyPairSpec{Name: "one more", PublicKey: k.PublicKey})
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, "100 key pairs")
	require.NoError(t, r.DeleteKeyPair(ctx, "", "7"))
	_, _, err = r.CreateKeyPair(ctx, KeyPairSpec{Name: "one more"})
	require.NoError(t, err)
}

func authorized(t testing.TB, key any) string {
	t.Helper()
	public, err := ssh.NewPublicKey(key)
	require.NoError(t, err)
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)))
}

func TestRefusedPublicKeys(t *testing.T) {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	good := authorized(t, key)
	weak := new(rsa.PublicKey)
	weak.N, weak.E = new(big.Int).SetBit(big.NewInt(1), 1023, 1), 65537
	strong := new(rsa.PublicKey)
	strong.N, strong.E = new(big.Int).SetBit(big.NewInt(1), MaxRSABits+7, 1), 65537
	for _, row := range []struct{ name, text, words string }{
		{"empty", "", "must begin with a type"},
		{"no key", "ssh-ed25519", "is not a key"},
		{"not base64", "ssh-ed25519 !!!", "is not a key"},
		{"cut off", good[:len(good)-8], "is not a key"},
		{"options", `command="rm -rf /" ` + good, "must begin with a type"},
		{"another type", strings.Replace(good, "ssh-ed25519", "ssh-rsa", 1), "type ssh-rsa"},
		{"two lines", good + "\n" + good, "one line"},
		{"control characters", good + " a\x1b[31m", "one line"},
		{"not UTF-8", good + " \xff", "one line"},
		{"DSA", "ssh-dss AAAAB3NzaC1kc3MAAACBAA==", `"ssh-dss"`},
		{"a certificate", "ssh-ed25519-cert-v01@openssh.com AAAA", "ssh-ed25519-cert"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----", "must begin with a type"},
		{"weak", authorized(t, weak), "1024 bits, must have 2048 to 16384"},
		{"too strong", authorized(t, strong), "is not a key"},
		{"too long", good + " " + strings.Repeat("x", MaxPublicKey), "at most 16384"},
	} {
		_, err := parsePublicKey(row.text)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, row.name)
		require.ErrorContains(t, err, "PublicKey")
		require.ErrorContains(t, err, row.words, row.name)
	}
	k, err := parsePublicKey(good + " ann at home")
	require.NoError(t, err)
	require.Equal(t, good+" ann at home", k.line)
}

// OpenSSH reads what is made here, and has the same fingerprints; and what it makes is taken.
func TestOpenSSHAgrees(t *testing.T) {
	testneed.Tools(t, "ssh-keygen")
	dir := t.TempDir()
	fingerprint := func(file, hash string) string {
		t.Helper()
		out, err := exec.Command("ssh-keygen", "-l", "-E", hash, "-f", file).CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.Fields(string(out))[1]
	}
	check := func(k publicKey) {
		t.Helper()
		file := filepath.Join(dir, "public")
		require.NoError(t, os.WriteFile(file, []byte(k.line+"\n"), 0o600))
		require.Equal(t, k.sha256, fingerprint(file, "sha256"))
		require.Equal(t, "MD5:"+k.md5, fingerprint(file, "md5"))
	}
	for _, typ := range []KeyType{Ed25519, RSA} {
		k, private, err := generateKey(typ, "from here")
		require.NoError(t, err)
		check(k)
		file := filepath.Join(dir, "private")
		require.NoError(t, os.WriteFile(file, private, 0o600))
		out, err := exec.Command("ssh-keygen", "-y", "-f", file).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, k.line, strings.TrimSpace(string(out)))
	}
	for _, args := range [][]string{{"-t", "ed25519"}, {"-t", "rsa", "-b", "2048"}, {"-t", "ecdsa", "-b", "256"}, {"-t", "ecdsa", "-b", "384"},
		{"-t", "ecdsa", "-b", "521"}} {
		file := filepath.Join(t.TempDir(), "key")
		out, err := exec.Command("ssh-keygen", append(args, "-q", "-N", "", "-C", "ann@home", "-f", file)...).CombinedOutput()
		require.NoError(t, err, string(out))
		text, err := os.ReadFile(file + ".pub")
		require.NoError(t, err)
		k, err := parsePublicKey(string(text))
		require.NoError(t, err, args)
		require.Equal(t, strings.TrimSpace(string(text)), k.line)
		check(k)
	}
}

// What is taken is one line that says the same again, whatever was written.
func FuzzParsePublicKey(f *testing.F) {
	key, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(f, err)
	good := authorized(f, key)
	for _, seed := range []string{"", good, good + " comment", `no-pty ` + good, good + "\r\n", "\t" + good, good[:40], "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAA",
		"sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAA", strings.ReplaceAll(good, " ", "\u00a0")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parsePublicKey(text)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		require.NotContains(t, k.line, "\n")
		require.NotContains(t, k.line, "\r")
		require.True(t, strings.HasPrefix(k.line, string(k.typ)+" "), "a line of options or of another type")
		require.True(t, allowed(string(k.typ)))
		public, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(k.line))
		require.NoError(t, err)
		require.Empty(t, options)
		require.Empty(t, rest)
		require.Equal(t, k.sha256, ssh.FingerprintSHA256(public))
		again, err := parsePublicKey(k.line)
		require.NoError(t, err)
		require.Equal(t, k, again)
	})
}
