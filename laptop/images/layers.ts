import { addLibraries, addPackageFiles } from "./debian.ts";
import { Rootfs } from "./rootfs.ts";

/** The search path that container images set; policies name it. */
export const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PASSWD = `root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`;
const GROUP = `root:x:0:
www-data:x:33:
nogroup:x:65534:
`;
const NSSWITCH = `passwd: files
group: files
hosts: files dns
`;

/** The skeleton of a Debian-like root, Node and the libraries it needs. Shared byte for byte by the images that run Node. */
export async function nodeLayer(node: string): Promise<Rootfs> {
  const rootfs = new Rootfs();
  for (const name of ["bin", "sbin", "lib", "lib64"]) rootfs.addDirectory(`usr/${name}`).addSymlink(name, `usr/${name}`);
  for (const name of ["dev", "etc", "proc", "run", "sys", "var"]) rootfs.addDirectory(name);
  rootfs.addDirectory("root", 0o700).addDirectory("tmp", 0o1777);
  rootfs.addFile("etc/passwd", 0o644, PASSWD).addFile("etc/group", 0o644, GROUP).addFile("etc/nsswitch.conf", 0o644, NSSWITCH);
  await rootfs.addHostFileAs("usr/bin/node", node);
  await addLibraries(rootfs, [node]);
  return rootfs;
}

/** nginx in the foreground on port 80. `/dev/stdout` must be a pipe or file: Linux cannot open a socket there. */
const NGINX_CONF = `daemon off;
user www-data;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr notice;

events {
  worker_connections 256;
}

http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /dev/stdout;
  sendfile on;
  server_tokens off;
  client_body_temp_path /tmp/nginx-client-body;
  proxy_temp_path /tmp/nginx-proxy;
  fastcgi_temp_path /tmp/nginx-fastcgi;
  uwsgi_temp_path /tmp/nginx-uwsgi;
  scgi_temp_path /tmp/nginx-scgi;

  server {
    listen 80 default_server;
    server_name _;
    # The application puts the page here once it has decrypted it; until then there is nothing to serve.
    root /tmp/html;
    index index.html;
  }
}
`;

/** nginx with our configuration; libraries that the Node layer has are not repeated. */
export async function nginxLayer(below: Rootfs): Promise<Rootfs> {
  const rootfs = new Rootfs();
  const programs = await addPackageFiles(rootfs, "nginx", [/^\/usr\/sbin\/nginx$/]);
  await addPackageFiles(rootfs, "nginx-common", [/^\/etc\/nginx\/mime\.types$/]);
  await addLibraries(rootfs, programs, below);
  return rootfs.addFile("etc/nginx/nginx.conf", 0o644, NGINX_CONF);
}

/** BusyBox as the shell that `/skr.sh` needs. */
export async function shellLayer(): Promise<Rootfs> {
  const rootfs = new Rootfs();
  await addPackageFiles(rootfs, "busybox-static", [/^(?:\/usr)?\/bin\/busybox$/]);
  return rootfs.addSymlink("usr/bin/sh", "busybox");
}

/** BusyBox alone, static: all that a pause container needs. */
export async function pauseLayer(): Promise<Rootfs> {
  const found = new Rootfs();
  const [busybox] = await addPackageFiles(found, "busybox-static", [/^(?:\/usr)?\/bin\/busybox$/]);
  const rootfs = new Rootfs();
  // Mount points of every container: a runtime cannot make them where the root is read-only, as it is for pause containers.
  for (const name of ["dev", "etc", "proc", "sys"]) rootfs.addDirectory(name);
  return rootfs.addHostFileAs("bin/busybox", busybox ?? "");
}

/** What the web application consists of. */
export interface NginxApplication {
  /** Bundle of `/app/webapp.mjs`. */
  readonly webapp: Uint8Array;
  /** Encrypted page, `/app/page.html.enc`. */
  readonly page: Uint8Array;
}

export function nginxApplicationLayer(application: NginxApplication): Rootfs {
  return new Rootfs().addFile("app/webapp.mjs", 0o644, application.webapp).addFile("app/page.html.enc", 0o644, application.page);
}

/** What the key-release sidecar consists of. */
export interface SkrApplication {
  /** Bundle of `/app/skr.mjs`. */
  readonly bundle: Uint8Array;
  /** PEM certificates that it trusts, `/etc/ssl/certs/ca-certificates.crt`. */
  readonly certificates: Uint8Array;
}

/** The name that AKS manifests start the sidecar by. `exec`: signals must reach the server, not the shell. */
const SKR_SH = `#!/bin/sh
exec /usr/bin/node /app/skr.mjs "$@"
`;

export function skrApplicationLayer(application: SkrApplication): Rootfs {
  return new Rootfs()
    .addFile("app/skr.mjs", 0o644, application.bundle)
    .addFile("skr.sh", 0o755, SKR_SH)
    .addFile("etc/ssl/certs/ca-certificates.crt", 0o644, application.certificates);
}
