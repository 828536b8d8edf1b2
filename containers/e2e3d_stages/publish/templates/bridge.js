// What passes between the viewer's page and a page around it, by postMessage; `ui/pages/frame.js` is the other side.
//
// In a frame the page around has the title and the report, and may have several scenes show the same camera: the one
// that a person moves tells where it is. Nothing else is told or taken. To the page around: `{e2e3d: "ready"}` once, and
// `{e2e3d: "camera", camera}` while a person moves; from it: `{e2e3d: "lead"}` and `{e2e3d: "camera", camera}`.
if (window.parent !== window) {
    document.getElementById('e2e3d').hidden = true;
    window.sse.options.debug = true;
    const tell = (what) => window.parent.postMessage(what, '*');
    let camera = null, leads = false, told = '';
    for (const kind of ['pointerdown', 'wheel', 'touchstart', 'keydown']) {
        addEventListener(kind, () => { leads = true; }, { capture: true, passive: true });
    }
    addEventListener('message', ({ source, data }) => {
        if (source !== window.parent || !camera) return;
        if (data?.e2e3d === 'lead') leads = true;
        if (data?.e2e3d === 'camera') {
            leads = false;
            camera.set(data.camera);
        }
    });
    const look = () => {
        const now = leads && camera.get();
        if (now && JSON.stringify(now) !== told) {
            told = JSON.stringify(now);
            tell({ e2e3d: 'camera', camera: now });
        }
        requestAnimationFrame(look);
    };
    const wait = setInterval(() => {
        if (!window.getCameraState) return;
        clearInterval(wait);
        camera = { get: window.getCameraState, set: window.setCameraState };
        tell({ e2e3d: 'ready' });
        look();
    }, 250);
}
