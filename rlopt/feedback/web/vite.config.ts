import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const SOURCES = ["package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"];

/** Writes beside the built files which sources they are of, so that a check without Node sees a forgotten build. */
function sourcesDigest(): Plugin {
  return {
    name: "sources-digest",
    generateBundle() {
      const files = [...SOURCES, ...["public", "src"].flatMap((folder) => readdirSync(folder).map((name) => `${folder}/${name}`))];
      const lines = files.sort().map((name) => `${createHash("sha256").update(readFileSync(join(".", name))).digest("hex")}  ${name}\n`);
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: lines.join("") });
    },
  };
}

// The names carry no hashes: the shell page of the server names the files, and a rebuild must give the same bytes.
export default defineConfig({
  base: "/static/",
  publicDir: "public",
  plugins: [sourcesDigest()],
  build: {
    outDir: process.env.RLOPT_WEB_OUT ?? "../static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    rollupOptions: {
      input: "src/main.ts",
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]" },
    },
  },
});
