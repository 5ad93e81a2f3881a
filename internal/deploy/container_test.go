package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tcexec "github.com/testcontainers/testcontainers-go/exec"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// engine returns a Docker engine. Without one the test is skipped, unless it must
// run.
func engine(t *testing.T) *testcontainers.DockerProvider {
	t.Helper()
	docker, err := brokertest.Engine(t.Context())
	switch {
	case errors.Is(err, brokertest.ErrNoDocker) && os.Getenv("REQUIRE_DOCKER") != "1":
		t.Skipf("%v (REQUIRE_DOCKER=1 makes this a failure)", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	if err := brokertest.Sweep(t.Context(), docker.Client()); err != nil {
		t.Fatal(err)
	}
	return docker
}

// finalStage is the Dockerfile with a first stage that only copies what the real
// one makes: that needs an image with a Go toolchain, which is only to be had
// from a registry. Everything from the last FROM on is as it is shipped. The
// command of the first stage that makes the program is returned beside it.
func finalStage(t *testing.T) (dockerfile, command string) {
	t.Helper()
	text := shipped(t, "Dockerfile")
	head, _, ok := strings.Cut(text, "FROM ${GO_IMAGE} AS build")
	at := strings.Index(text, "FROM ${BASE}")
	run := regexp.MustCompile(`(?s)\nRUN (CGO_ENABLED=0 go build .*?[^\\])\n`).FindStringSubmatch(text)
	if !ok || at < 0 || run == nil {
		t.Fatal("the Dockerfile is not as this test knows it")
	}
	return head + "FROM scratch AS build\nCOPY worker /out/worker\nCOPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n\n" + text[at:], run[1]
}

// buildImage makes the image: the program by the command of the Dockerfile, on
// this machine, the rest by Docker. The CA bundle that the build image would have
// is this machine's and one more certificate.
func buildImage(t *testing.T, docker *testcontainers.DockerProvider, name string, trusted []byte) {
	t.Helper()
	dir := t.TempDir()
	dockerfile, command := finalStage(t)
	must(t, root(t), strings.ReplaceAll(command, "/out/worker", filepath.Join(dir, "worker")), "VERSION=test", "COMMIT=none", "GOOS=linux")
	certificates, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatalf("this machine has no CA bundle to put into the image: %v", err)
	}
	for file, text := range map[string][]byte{"Dockerfile": []byte(dockerfile), "ca-certificates.crt": append(certificates, trusted...)} {
		// As in the build image, all may read it.
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	labels, err := brokertest.Labels()
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(name, ":")
	base := "scratch"
	t.Cleanup(func() {
		_, _ = docker.Client().ImageRemove(context.WithoutCancel(t.Context()), name, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	})
	_, err = docker.BuildImage(t.Context(), &testcontainers.ContainerRequest{FromDockerfile: testcontainers.FromDockerfile{
		Context: dir, Repo: repository, Tag: tag, KeepImage: true, BuildArgs: map[string]*string{"BASE": &base},
		BuildOptionsModifier: func(o *client.ImageBuildOptions) { o.Labels = labels },
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// composition is the Compose file brought up.
type composition struct {
	t       *testing.T
	docker  *testcontainers.DockerProvider
	network *testcontainers.DockerNetwork
	image   string
	nats    string
	file    composed
	up      map[string]testcontainers.Container
}

// start starts a service as the file describes it, with more files in it.
func (c *composition) start(name string, ready wait.Strategy, files ...testcontainers.ContainerFile) testcontainers.Container {
	c.t.Helper()
	s := c.file.Services[name]
	image := s.Image
	if image == "deploy-worker" {
		image = c.image
	} else {
		image = c.nats
	}
	labels, err := brokertest.Labels()
	if err != nil {
		c.t.Fatal(err)
	}
	req := testcontainers.ContainerRequest{
		Image: image, Cmd: s.Command, Env: s.Environment, Labels: labels,
		Networks: []string{c.network.Name}, NetworkAliases: map[string][]string{c.network.Name: {name}},
		WaitingFor: ready, Files: files,
		ConfigModifier: func(config *container.Config) {
			if s.Healthcheck.Disable {
				config.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
			} else if config.Healthcheck == nil && image == c.image {
				// As in the image, but that a test need not wait so long.
				config.Healthcheck = &container.HealthConfig{Interval: time.Second, StartPeriod: 30 * time.Second}
			}
		},
		HostConfigModifier: func(h *container.HostConfig) {
			h.ReadonlyRootfs, h.CapDrop, h.SecurityOpt = s.ReadOnly, s.CapDrop, s.SecurityOpt
			for _, v := range s.Volumes {
				from, to, _ := strings.Cut(v, ":")
				if strings.HasPrefix(from, "./") {
					continue // copied below: the engine may be on another machine
				}
				h.Tmpfs = map[string]string{to: ""}
			}
		},
	}
	for _, p := range s.Ports {
		req.ExposedPorts = append(req.ExposedPorts, p[strings.LastIndex(p, ":")+1:]+"/tcp")
	}
	for _, v := range s.Volumes {
		if parts := strings.Split(v, ":"); strings.HasPrefix(v, "./") {
			req.Files = append(req.Files, testcontainers.ContainerFile{HostFilePath: filepath.Join(root(c.t), "deploy", parts[0]), ContainerFilePath: parts[1], FileMode: 0o644})
		}
	}
	ctr, err := testcontainers.GenericContainer(c.t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: req, Started: true})
	testcontainers.CleanupContainer(c.t, ctr, testcontainers.StopTimeout(0))
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, logs(ctr))
	}
	c.up[name] = ctr
	return ctr
}

func logs(ctr testcontainers.Container) string {
	if ctr == nil {
		return ""
	}
	r, err := ctr.Logs(context.Background())
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	text, _ := io.ReadAll(io.LimitReader(r, 1<<16))
	return string(text)
}

// The image and the Compose file, as they are shipped: NATS with the shipped
// configuration, the simulator, setup and the worker, each with no more rights
// than the file gives. An order goes in as an ordering system places it, and its
// outcome comes out. The container has a read-only root, is not root, and says
// itself that it is healthy.
func TestImageAndCompose(t *testing.T) {
	t.Parallel()
	if !*all {
		t.Log("only with -deploy")
		return
	}
	docker := engine(t)
	ctx := t.Context()
	c := &composition{t: t, docker: docker, file: compose(t), up: make(map[string]testcontainers.Container), image: fmt.Sprintf("deploy-worker-test:%d", os.Getpid())}
	certificate, key := selfSigned(t, "tls")
	buildImage(t, docker, c.image, certificate)
	seen, err := docker.Client().ImageInspect(ctx, c.image)
	if err != nil {
		t.Fatal(err)
	}
	size := float64(seen.Size) / 1e6
	t.Logf("the image has %.1f MB", size)
	if said := statedSize(t); size > 1.1*said || size < 0.9*said {
		t.Errorf("the image has %.1f MB, and docs/deploying.md says %.0f", size, said)
	}
	if seen.Config.User != "65532:65532" || seen.Config.Healthcheck == nil {
		t.Errorf("the image: %+v", seen.Config)
	}
	if c.nats, err = brokertest.NATSImage(ctx, docker); err != nil {
		t.Fatal(err)
	}
	labels, err := brokertest.Labels()
	if err != nil {
		t.Fatal(err)
	}
	if c.network, err = tcnetwork.New(ctx, tcnetwork.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	testcontainers.CleanupNetwork(t, c.network)

	broker := c.start("nats", wait.ForLog("Server is ready"))
	c.start("simulator", nil)
	c.ends("setup")
	worker := c.start("worker", wait.ForHealthCheck().WithStartupTimeout(time.Minute))
	hardened(t, docker, worker)

	address, err := broker.PortEndpoint(ctx, "4222/tcp", "nats")
	if err != nil {
		t.Fatal(err)
	}
	c.documented(address)
	c.trusts(certificate, key)
	if code, out := inside(t, worker, "/usr/local/bin/worker", "health", "--ready"); code != 0 {
		t.Errorf("worker health --ready ended with %d: %s", code, out)
	}
	admin, err := worker.PortEndpoint(ctx, "9090/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	answers(t, admin+"/readyz")

	// It ends cleanly, well within the time that the file gives it.
	grace, err := time.ParseDuration(c.file.Services["worker"].StopGracePeriod)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Stop(ctx, &grace); err != nil {
		t.Fatal(err)
	}
	end, err := worker.State(ctx)
	if err != nil || end.ExitCode != 0 {
		t.Errorf("the worker ended with %+v, %v\n%s", end, err, logs(worker))
	}
}

// statedSize is what people are told that the image has, in MB.
func statedSize(t *testing.T) float64 {
	t.Helper()
	said := regexp.MustCompile(`makes an image of (\d+) MB`).FindStringSubmatch(shipped(t, "../docs/deploying.md"))
	if said == nil {
		t.Fatal("docs/deploying.md does not say how large the image is")
	}
	size, err := strconv.ParseFloat(said[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// hardened looks at a running container.
func hardened(t *testing.T, docker *testcontainers.DockerProvider, ctr testcontainers.Container) {
	t.Helper()
	seen, err := docker.Client().ContainerInspect(t.Context(), ctr.GetContainerID(), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i := seen.Container
	if !i.HostConfig.ReadonlyRootfs || i.Config.User != "65532:65532" || i.State.Health == nil || i.State.Health.Status != "healthy" {
		t.Errorf("read-only: %t, user %q, health %+v", i.HostConfig.ReadonlyRootfs, i.Config.User, i.State.Health)
	}
	top, err := docker.Client().ContainerTop(t.Context(), ctr.GetContainerID(), client.ContainerTopOptions{Arguments: []string{"-o", "uid,pid"}})
	if err != nil || len(top.Processes) == 0 || top.Processes[0][0] != "65532" {
		t.Errorf("it runs as %v, %v", top.Processes, err)
	}
	// Nothing can be written: neither by the program, nor from outside.
	if err := ctr.CopyToContainer(t.Context(), []byte("x"), "/x", 0o644); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a file was written, or not for the reason expected: %v", err)
	}
	if code, out := inside(t, ctr, "/usr/local/bin/worker", "health", "--admin-addr", "127.0.0.1:1"); code != 1 {
		t.Errorf("the health of nobody is said to be %d: %s", code, out)
	}
}

// inside runs a program in a container.
func inside(t *testing.T, ctr testcontainers.Container, command ...string) (int, string) {
	t.Helper()
	code, r, err := ctr.Exec(t.Context(), command, tcexec.Multiplexed())
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(out)
}

func answers(t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s says %s", url, resp.Status)
	}
}
