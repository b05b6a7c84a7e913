import { defineConfig } from "vite";

// The names carry no hashes: the shell page of the server names the files, and a rebuild must give the same bytes.
export default defineConfig({
  base: "/static/",
  publicDir: "public",
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
