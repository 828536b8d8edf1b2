// The mesh beside the Gaussians, by the viewer's own engine and camera; a person chooses which of them shows, and how.
{
    const choices = document.getElementById('e2e3d-look');
    const { app, events, state } = viewer;
    const text = atob(document.getElementById('mesh').textContent);
    const packed = new Blob([Uint8Array.from(text, (sign) => sign.charCodeAt(0))]);
    const file = await new Response(packed.stream().pipeThrough(new DecompressionStream('gzip'))).blob();
    const loaded = new Promise((resolve, reject) => {
        const taken = (error, asset) => (error ? reject(new Error(error)) : resolve(asset.resource));
        app.assets.loadFromUrlAndFilename(URL.createObjectURL(file), 'mesh.glb', 'container', taken);
    });
    const started = new Promise((resolve) => (state.loaded ? resolve() : events.once('loaded:changed', resolve)));
    const [resource] = await Promise.all([loaded, started]);

    const mesh = resource.instantiateRenderEntity();
    // glTF has z towards the viewer, and this world has it the other way round: half a turn about y, which is up in both.
    mesh.setLocalEulerAngles(0, 180, 0);
    app.root.addChild(mesh);
    const gaussians = app.root.findByName('gsplat');
    const materials = mesh.findComponents('render').flatMap((render) => render.meshInstances.map((each) => each.material));
    // The colours are those of photos, which have their light in them; form alone wants light, and no colours.
    const look = () => {
        const { value } = choices.elements.look;
        gaussians.enabled = value === 'scene';
        mesh.enabled = value !== 'scene';
        for (const material of materials) {
            const coloured = value === 'mesh';
            material.useLighting = !coloured;
            material.diffuseVertexColor = false;
            material.diffuse.set(...Array(3).fill(coloured ? 0 : 0.8));
            material.emissiveVertexColor = coloured;
            material.emissive.set(...Array(3).fill(coloured ? 1 : 0));
            material.update();
        }
        app.renderNextFrame = true;
    };
    choices.addEventListener('change', look);
    choices.hidden = false;
    look();
}
